"""The weekly look whether today's keys open what is oldest."""

from __future__ import annotations

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.findings import advice
from pgbackup.keys import check_keys
from pgbackup_airflow.operators import ProtocolOperator


class CheckKeysOperator(ProtocolOperator):
    """Open the oldest backup of each kind and the oldest WAL in each repository."""

    def execute(self, context: Context) -> int:
        """Return the number of findings; fails at once with all that does not open."""
        with self.site(context) as site:
            findings = check_keys(site, self.cluster)
        for finding in findings:
            self.log.info("%s: %s %s", finding.name, "ok" if finding.ok else "FAILED", finding.detail)
        if not all(finding.ok for finding in findings):
            raise AirflowFailException(advice(findings))
        return len(findings)

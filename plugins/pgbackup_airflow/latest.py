"""The newest moment, proved to be within reach once a day."""

from __future__ import annotations

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.findings import advice
from pgbackup.recover import proved_lately, verify_latest
from pgbackup_airflow.operators import ProtocolOperator


class VerifyLatestOperator(ProtocolOperator):
    """Recover the newest archived moment in isolation, unless that succeeded within the last 20 hours."""

    def execute(self, context: Context) -> str:
        """Return what was recovered, now or lately; fails at once when it cannot be."""
        with self.site(context) as site:
            lately = proved_lately(site, self.cluster)
            if lately is not None:
                self.log.info("not due: proved %s UTC by %s", f"{lately.seen_at:%Y-%m-%d %H:%M}", lately.owner)
                return lately.detail
            finding = verify_latest(site, self.cluster)
        if not finding.ok:
            raise AirflowFailException(advice([finding]))
        return finding.detail

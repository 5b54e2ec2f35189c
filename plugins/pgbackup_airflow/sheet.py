"""The recovery sheet in every repository: one task, red when a repository did not take it; the others have it then."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from airflow.sdk import Context

from pgbackup.assembly import read_configuration
from pgbackup.domain.errors import TransientError
from pgbackup.sheet import write_sheets
from pgbackup_airflow.operators import ProtocolOperator


class SheetOperator(ProtocolOperator):
    """Write the sheet where anything has changed since the last one."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return which edition is the newest in each repository."""
        with self.site(context) as site:
            written, errors = write_sheets(site, site.repositories, read_configuration())
            if errors:  # one that may pass, if there is any: then the task is tried again
                raise min(errors, key=lambda one: not isinstance(one, TransientError))
        return [asdict(one) for one in written]

"""Whether the watch itself works, from what it left in the catalog: for those who look at anything else."""

from __future__ import annotations

from pgbackup.domain.findings import Answer
from pgbackup.domain.model import SILENT, Finding
from pgbackup.domain.ports import Site
from pgbackup.watch import names
from pgbackup.watch.judge import judged


def last_look(site: Site, cluster: str) -> Finding:
    """Judge when a run of `wal_watch` last came to its end; where none ever did there may be no Airflow."""

    def answer() -> Answer:
        known = next((one for one in site.catalog.watched(cluster) if one.name == names.FINISHED), None)
        if known is None:
            return True, "it never ran", ""
        if not known.ok:
            return False, known.detail, known.hint
        ago = site.clock() - known.seen_at
        hint = f"is {cluster}_wal_watch paused, the scheduler down, or its queue without a worker (docs/fleet.md)?"
        return ago < SILENT, f"{ago.total_seconds() / 60:.0f} minutes ago", hint

    return judged(names.FINISHED, answer)

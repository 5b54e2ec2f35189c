"""What is off-site: how far each repository is behind, as the catalog has it; one that is down delays no watch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgbackup.domain.findings import Answer, some
from pgbackup.domain.model import Backup, CopyState
from pgbackup.domain.ports import Catalog
from pgbackup.domain.settings import Copies
from pgbackup.watch.text import span

_SOUND = frozenset({CopyState.STORED, CopyState.VERIFIED})


def wal_is_there(catalog: Catalog, repository: str, allowed: Copies, now: datetime, cluster: str) -> Answer:
    """All WAL that was sealed up to a short while ago is in a repository."""
    hint = f"look at the last runs of {cluster}_copy_wal, or run `pgbackup copy`: it goes on where it stopped"
    found = next((one for one in catalog.wal_copies(cluster) if one.repository == repository), None)
    if found is None or found.whole_at is None:
        why = f": {found.error}" if found and found.error else ""
        return False, f"no WAL was copied there yet{why}", hint
    lag = now - found.whole_at
    why = f"; {found.missing} files are missing, {found.error}" if found.error else ""
    return lag <= allowed.late, f"{span(lag)} behind, {span(allowed.late)} allowed{why}", hint


def backups_are_there(
    backups: Sequence[Backup], repository: str, allowed: Copies, now: datetime, cluster: str
) -> Answer:
    """Every backup that is not quite new is in a repository."""
    missing = [
        one.id
        for one in backups
        if one.finished_at is not None
        and now - one.finished_at > allowed.backup_late
        and not any(copy.repository == repository and copy.state in _SOUND for copy in one.copies)
    ]
    return (
        not missing,
        f"missing there, or damaged: {some(missing)}" if missing else "",
        f"look at the copy task of {cluster}_full_backup, or run `pgbackup copy`: it goes on where it stopped",
    )

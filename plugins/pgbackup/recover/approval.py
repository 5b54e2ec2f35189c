"""What a plan needs stays while somebody decides: a rotation must not delete it before the recovery begins."""

from __future__ import annotations

from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.recover.origin import FromBackup, Origin
from pgbackup.restore.holds import LEASE, hold_each, release_own


def hold_needed(site: Site, cluster: str, planned: RecoveryPlan | Origin) -> None:
    """Hold the backups of a plan and their WAL, for as long as it may be approved and a day to carry it out.

    A repository that takes no hold delays nothing: that is logged.
    """
    repository, backups = _needed(planned)
    within = site.settings.cluster(cluster).recovery.within
    release_own(site, repository, backups)  # of an earlier try of the same run
    hold_each(site, repository, backups, "a recovery that waits for its approval", within + LEASE)


def release_needed(site: Site, planned: RecoveryPlan | Origin) -> None:
    """Release what was held for the approval; what is not released expires by itself."""
    release_own(site, *_needed(planned))


def _needed(planned: RecoveryPlan | Origin) -> tuple[str, tuple[str, ...]]:
    """Return the repository, and the backups in it."""
    if isinstance(planned, FromBackup):
        return planned.repository, (planned.backup_id,)
    recovery = planned if isinstance(planned, RecoveryPlan) else planned.recovery
    return recovery.repository, recovery.backups

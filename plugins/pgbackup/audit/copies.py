"""What a repository should hold: by the catalog, by its own listing, by what the others have."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime

from pgbackup.audit import names
from pgbackup.audit.judge import Wrong
from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import Backup, Copy, CopyState, Finding, ObjectInfo, State
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import parse_sealed, sealed_files
from pgbackup.restore.listing import absent

log = logging.getLogger(__name__)

_KEPT = frozenset({State.CAPTURED, State.VERIFIED})
_STORED = frozenset({CopyState.STORED, CopyState.VERIFIED, CopyState.DAMAGED})


def audit_copies(
    site: Site, store: Store, cluster: str, committed: Mapping[BackupId, datetime], began: datetime
) -> Iterator[Finding]:
    """Compare the backups that are there, of all clusters, with the catalog, which is read after the listing was.

    ``committed`` has the time of each one's newest object; what is younger than the beginning is not judged.
    """
    late = began - site.settings.cluster(cluster).copies.backup_late
    missing = Wrong(names.COPIES, "`pgbackup copy` brings it, from the local repository")
    contradictions = Wrong(
        names.AGREES, f"lost there: `pgbackup copy`; not in the catalog: `pgbackup catalog rebuild --from {store.name}`"
    )
    known = {backup.id: backup for backup in site.catalog.backups(cluster)}
    there = {str(one): modified for one, modified in committed.items() if one.cluster == cluster}
    for backup in known.values():
        copy = _copy(backup, store.name)
        if copy and copy.state in _STORED and backup.id not in there and copy.stored_at < began:
            contradictions.add(f"the catalog has {backup.id}, {store.name} does not")
        elif copy and copy.state is CopyState.DAMAGED and backup.state in _KEPT:
            missing.add(f"{backup.id} is damaged")
        elif copy is None and backup.state in _KEPT and backup.finished_at and backup.finished_at < late:
            missing.add(f"{backup.id} was never copied")
    for name, modified in there.items():
        copy = _copy(known[name], store.name) if name in known else None
        if modified < began and (copy is None or copy.state not in _STORED):
            contradictions.add(f"{store.name} has {name}, the catalog does not")
    yield missing.finding()
    yield contradictions.finding(f"{len(known)} backups in the catalog")


def audit_wal(site: Site, store: Store, cluster: str) -> Finding:
    """Compare the archived WAL with the local repository's; the local one's with what the others have of the window.

    Another repository that does not answer is only not compared with.
    """
    settings = site.settings.cluster(cluster)
    late = site.clock() - settings.copies.late
    missing = Wrong(
        names.WAL, "`pgbackup copy` brings it; where the local repository lacks it, copy it back from there"
    )
    silent: list[str] = []
    for other in site.repositories.values() if store.name == site.local.name else (site.local,):
        if other.name == store.name:
            continue
        try:
            for info in absent(_sidecars(other, cluster), _sidecars(store, cluster)):
                if info.modified < late and (store.name != site.local.name or _is_recent(site, other, info, cluster)):
                    missing.add(f"{info.key.removesuffix('.json')} is in {other.name}")
        except PgBackupError as error:
            if store.name != site.local.name:
                raise
            log.info("not compared with %s: %s", other.name, error)
            silent.append(other.name)
    return missing.finding(f"not compared with {', '.join(silent)}" if silent else "")


def _sidecars(store: Store, cluster: str) -> Iterator[ObjectInfo]:
    return (info for info in store.list(f"wal/{cluster}/") if any(sealed_files([info.key])))


def _is_recent(site: Site, store: Store, info: ObjectInfo, cluster: str) -> bool:
    """Tell whether WAL is of the recovery window: older may have gone here by rotation, and stay there by a lock."""
    since = site.clock() - site.settings.cluster(cluster).retention.window
    return info.modified > since and parse_sealed(store.read(info.key), source=info.key).sealed_at > since


def _copy(backup: Backup, repository: str) -> Copy | None:
    return next((copy for copy in backup.copies if copy.repository == repository), None)

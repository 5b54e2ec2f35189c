"""Holds beside the backups: put, found, released; and for as long as something is under way."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from pgbackup.domain.errors import PgBackupError, RefusedError, UnavailableError
from pgbackup.domain.hold import HOLDS, RELEASES, Hold, Release, standing
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.ports import Site, Store

log = logging.getLogger(__name__)

LEASE = timedelta(hours=24)
"""How long a hold of something under way stands when its process was killed."""


def holds_of(site: Site, store: Store, backup_id: BackupId) -> tuple[Hold, ...]:
    """Return the holds that stand on a backup, of all repositories, oldest first.

    A hold is put in every repository: one other than ``store`` that does not answer is only logged. Raises RefusedError
    for a damaged hold: the backup stays until somebody has looked at it.
    """
    objects = [_objects(store, backup_id)]
    for other in site.repositories.values():
        if other.name != store.name:
            try:
                objects.append(_objects(other, backup_id))
            except UnavailableError as error:
                log.warning("holds in %s are not known: %s", other.name, error)
    return standing(objects, site.clock())


def _objects(store: Store, backup_id: BackupId) -> dict[str, bytes]:
    prefix = backup_id.key("")
    return {
        found.key.removeprefix(prefix): store.read(found.key)
        for start in (HOLDS, RELEASES)
        for found in store.list(backup_id.key(start))
    }


def put_hold(site: Site, backup_id: str, *, reason: str, expires_at: datetime | None, with_wal: bool = False) -> Hold:
    """Hold a backup in every repository that has it; raises RefusedError when none has.

    An error of one repository is raised after the others took the hold.
    """
    parsed = BackupId.parse(backup_id)
    hold = Hold(
        backup_id=str(parsed),
        owner=site.owner,
        reason=reason,
        held_at=site.clock(),
        expires_at=expires_at,
        with_wal=with_wal,
    )
    if _write(site, parsed, f"{HOLDS}{hold.id}.json", hold.text) == 0:
        raise RefusedError(f"no repository holds {parsed}", hint="`pgbackup list` shows what there is")
    return hold


def release_hold(site: Site, hold: Hold) -> None:
    """Release a hold in every repository that has its backup."""
    release = Release(hold_id=hold.id, owner=site.owner, released_at=site.clock())
    _write(site, BackupId.parse(hold.backup_id), f"{RELEASES}{hold.id}.json", release.text)


@contextlib.contextmanager
def leased(site: Site, backup_ids: Iterable[str], reason: str) -> Iterator[None]:
    """Hold backups, and the WAL behind them, while something reads them.

    A repository that takes no hold (it is read-only) delays nothing: that is logged. The holds of a killed process
    expire by themselves.
    """
    held: list[Hold] = []
    for backup_id in backup_ids:
        try:
            held.append(put_hold(site, backup_id, reason=reason, expires_at=site.clock() + LEASE, with_wal=True))
        except PgBackupError as error:
            log.warning("%s is not held while it is used: %s", backup_id, error)
    try:
        yield
    finally:
        for hold in held:
            try:
                release_hold(site, hold)
            except PgBackupError as error:
                log.warning("a hold on %s stays until it expires: %s", hold.backup_id, error)


def _write(site: Site, backup_id: BackupId, name: str, text: bytes) -> int:
    """Write an object beside every committed copy; return how many there are."""
    failed: PgBackupError | None = None
    count = 0
    for store in site.repositories.values():
        try:
            if not any(True for _ in store.list(backup_id.key(SUMS))):
                continue
            count += 1
            if not any(True for _ in store.list(backup_id.key(name))):
                with store.create(backup_id.key(name)) as sink:
                    sink.write(text)
        except PgBackupError as error:
            failed = error
            log.warning("%s: %s", store.name, error)
    if failed is not None:
        raise failed
    return count

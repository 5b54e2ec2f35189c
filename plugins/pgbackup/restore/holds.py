"""Holds beside the backups: put, found, released; and for as long as something is under way."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from pgbackup.domain.errors import PgBackupError, RefusedError
from pgbackup.domain.hold import HOLDS, RELEASES, Hold, Release, standing
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.model import Kind
from pgbackup.domain.ports import Site, Store

log = logging.getLogger(__name__)

LEASE = timedelta(hours=24)
"""How long a hold of something under way stands when its process was killed."""

Texts = Mapping[str, bytes]
"""A backup's holds and releases as they are stored, name -> text."""


def holds_of(site: Site, store: Store, backup_id: BackupId) -> tuple[Hold, ...]:
    """Return the holds that stand on a backup, of all repositories, oldest first.

    A hold is put in every repository: one other than ``store`` that does not answer is only logged. Raises RefusedError
    for a damaged hold: the backup stays until somebody has looked at it.
    """
    return _standing(site, [store, *(one for one in site.repositories.values() if one.name != store.name)], backup_id)


def _standing(site: Site, stores: Sequence[Store], backup_id: BackupId) -> tuple[Hold, ...]:
    found = _texts(stores, [backup_id.key(start) for start in (HOLDS, RELEASES)])
    return standing([found.get(str(backup_id), {})], site.clock())


def all_holds(site: Site, store: Store, cluster: str) -> Mapping[str, Texts]:
    """Return what holds_of() reads, of every backup of a cluster, by id: one listing of each repository."""
    others = [one for one in site.repositories.values() if one.name != store.name]
    return _texts([store, *others], [f"{kind.value}/{cluster}_" for kind in Kind])


def list_holds(site: Site, cluster: str) -> tuple[Hold, ...]:
    """Return the holds that stand on a cluster's backups; raises RefusedError for a damaged one."""
    found = all_holds(site, site.local, cluster)
    ours = [name for name in sorted(found) if BackupId.parse(name).cluster == cluster]
    return tuple(hold for name in ours for hold in standing([found[name]], site.clock()))


def _texts(stores: Sequence[Store], prefixes: Sequence[str]) -> Mapping[str, Texts]:
    """Read holds and releases; an error of the first repository is raised, one of another is logged."""
    found: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for store in stores:
        try:
            for prefix in prefixes:
                for name, key in list(_names(store, prefix)):
                    found[key.split("/")[1]].setdefault(name, store.read(key))
        except PgBackupError as error:
            if store is stores[0]:
                raise
            log.warning("holds in %s are not known: %s", store.name, error)
    return found


def _names(store: Store, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (name under its backup, key) of the holds and releases in a repository."""
    for one in store.list(prefix):
        name = "/".join(one.key.split("/")[2:])
        if name.startswith((HOLDS, RELEASES)):
            yield name, one.key


def put_hold(
    site: Site,
    backup_id: str,
    *,
    reason: str,
    expires_at: datetime | None,
    with_wal: bool = False,
    repository: str | None = None,
) -> Hold:
    """Hold a backup in one repository, or in every one that has it; raises RefusedError when none has.

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
    _write(site, _stores(site, repository), parsed, f"{HOLDS}{hold.id}.json", hold.text)
    return hold


def release_hold(site: Site, hold: Hold, *, repository: str | None = None) -> None:
    """Release a hold in one repository, or in every one that has its backup."""
    release = Release(hold_id=hold.id, owner=site.owner, released_at=site.clock())
    name = f"{RELEASES}{hold.id}.json"
    _write(site, _stores(site, repository), BackupId.parse(hold.backup_id), name, release.text)


def alone(site: Site, cluster: str, repository: str, *, purpose: str) -> contextlib.AbstractContextManager[None]:
    """Hold what a repository has of a cluster against rotations and changes of keys; raises BusyError.

    Captures write into the local repository alone: only there they are kept out, too. The others need not wait for
    them, nor for each other.
    """
    place = cluster if repository == site.local.name else f"{cluster} in {repository}"
    return site.catalog.exclusive(place, purpose=purpose)


@contextlib.contextmanager
def leased(site: Site, repository: str, backup_ids: Iterable[str], reason: str) -> Iterator[None]:
    """Hold backups in a repository, and the WAL behind them, while something reads them there.

    One that takes no hold (it is read-only) delays nothing: that is logged, and no other one is asked. The holds of a
    killed process expire by themselves.
    """
    held = hold_each(site, repository, backup_ids, reason, LEASE)
    try:
        yield
    finally:
        _release_each(site, repository, held)


def hold_each(
    site: Site, repository: str, backup_ids: Iterable[str], reason: str, period: timedelta
) -> tuple[Hold, ...]:
    """Hold backups in a repository, and the WAL behind them, for a time; where it takes no hold, that is logged."""
    held: list[Hold] = []
    until = site.clock() + period
    try:
        held.extend(
            put_hold(site, one, reason=reason, expires_at=until, with_wal=True, repository=repository)
            for one in backup_ids
        )
    except PgBackupError as error:
        log.warning("not everything is held while it is used: %s", error)
    return tuple(held)


def release_own(site: Site, repository: str, backup_ids: Iterable[str]) -> None:
    """Release this owner's holds on backups in a repository; what cannot be released is logged, and expires."""
    try:
        for one in backup_ids:
            found = _standing(site, [site.repositories[repository]], BackupId.parse(one))
            _release_each(site, repository, [hold for hold in found if hold.owner == site.owner])
    except PgBackupError as error:
        log.warning("holds stay until they expire: %s", error)


def _release_each(site: Site, repository: str, held: Iterable[Hold]) -> None:
    for hold in held:
        try:
            release_hold(site, hold, repository=repository)
        except PgBackupError as error:
            log.warning("a hold on %s stays until it expires: %s", hold.backup_id, error)


def _stores(site: Site, repository: str | None) -> Sequence[Store]:
    return [site.repositories[repository]] if repository else list(site.repositories.values())


def _write(site: Site, stores: Iterable[Store], backup_id: BackupId, name: str, text: bytes) -> None:
    """Write an object beside every committed copy, then lock the copy, or let it go when nothing there holds it.

    A copy whose deletion began meanwhile does not count: whoever deletes looks for holds once more when SHA256SUMS is
    gone.
    """
    failed: PgBackupError | None = None
    count = 0
    for store in stores:
        try:
            if not is_there(store, backup_id.key(SUMS)):
                continue
            if not is_there(store, backup_id.key(name)):
                with store.create(backup_id.key(name)) as sink:
                    sink.write(text)
            count += is_there(store, backup_id.key(SUMS))
            lock_objects(store, backup_id, on=bool(_standing(site, [store], backup_id)))
        except PgBackupError as error:
            failed = error
            log.warning("%s: %s", store.name, error)
    if failed is not None:
        raise failed
    if not count:
        raise RefusedError(f"no repository holds {backup_id}", hint="`pgbackup list` shows what there is")


def lock_objects(store: Store, backup_id: BackupId, *, on: bool) -> None:
    """Let the storage keep every object of a copy from deletion, where it can; or stop that."""
    for one in list(store.list(backup_id.key(""))):
        store.hold(one.key, on=on)


def is_there(store: Store, key: str) -> bool:
    """Tell whether an object exists."""
    return any(one.key == key for one in store.list(key))

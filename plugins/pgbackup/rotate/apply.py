"""Delete what a plan says, and what is still to go by now: nothing else. Every step may be the last one of a process.

A backup: SHA256SUMS (from then on nobody takes it for a backup), the catalog, the manifest, the data, the rest. A WAL
segment: the description, then the bytes; oldest first, so that what is left has no gap.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError, UnavailableError
from pgbackup.domain.hold import HOLDS
from pgbackup.domain.ids import MANIFEST, SUMS
from pgbackup.domain.ports import Site, Store
from pgbackup.restore.holds import alone, holds_of, lock_objects
from pgbackup.rotate.contents import Contents, Folder
from pgbackup.rotate.planning import RotationPlan, planned

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """What went, and what could not: that is tried again by the next rotation."""

    repository: str
    backups: tuple[str, ...]
    segments: int
    bytes: int
    failures: tuple[str, ...]


def apply(site: Site, shown: Mapping[str, Any]) -> Applied:
    """Delete what both the ``shown`` plan (its document) and a plan of now let go.

    Raises BusyError while another rotation of the repository runs, keys change there, or a backup is taken into it;
    UnavailableError when the repository stops answering: the next call goes on; what planning raises. What cannot be
    deleted is in the result.
    """
    try:
        cluster, repository = str(shown["cluster"]), str(shown["repository"])
        going = {one["id"] for one in shown["backups"] if not one["rules"]} | set(shown["remains"])
        cuts = {(one["system_identifier"], one["timeline"]): int(one["before"]) for one in shown["wal"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError("not a rotation plan", detail=repr(error)) from None
    with alone(site, cluster, repository, purpose="rotation"):
        rotation = _Rotation(site, *planned(site, cluster, repository))
        rotation.delete(going)
        if any(cut.count for cut in rotation.plan.cuts):
            # Once more: while backups were deleted, a recovery may have begun to hold WAL.
            rotation.plan, rotation.contents = planned(site, cluster, repository)
            rotation.cut(cuts)
    return rotation.applied()


class _Rotation:
    """One rotation under way."""

    def __init__(self, site: Site, plan: RotationPlan, contents: Contents) -> None:
        self.site = site
        self.store: Store = site.repositories[plan.repository]
        self.plan = plan
        self.contents = contents
        self.failures = list(plan.problems)
        self.gone: list[str] = []
        self.segments = 0
        self.bytes = 0

    def applied(self) -> Applied:
        """Return what was done."""
        log.info(
            "%s: %d backups, %d segments, %d bytes deleted", self.store.name, len(self.gone), self.segments, self.bytes
        )
        return Applied(self.store.name, tuple(self.gone), self.segments, self.bytes, tuple(self.failures))

    def delete(self, going: Collection[str]) -> None:
        """Delete backups, what stands on another before it, then remains."""
        stuck: set[str | None] = set()
        for backup in self.plan.going:
            if backup.id not in going:
                stuck.add(backup.parent)
            elif backup.id in stuck:
                stuck.add(backup.parent)
                self.failures.append(f"{backup.id} stays: what stands on it is still there")
            elif not self._try(self.contents.folders[backup.id]):
                stuck.add(backup.parent)
        for folder in self.plan.remains:
            if str(folder.backup_id) not in going:
                continue
            now = Folder(folder.backup_id, tuple(self.store.list(folder.backup_id.key(""))))
            if now == folder:
                self._try(folder)
            else:
                log.info("%s is copied there again: it stays", folder.backup_id)

    def _try(self, folder: Folder) -> bool:
        name = str(folder.backup_id)
        try:
            delete_backup(self.site, self.store, folder)
        except UnavailableError:
            raise
        except PgBackupError as error:
            self.failures.append(f"{name} was not deleted: {error}")
            log.warning("%s", self.failures[-1])
            return False
        self.gone.append(name)
        self.bytes += folder.bytes
        log.info("deleted %s: %d bytes", name, folder.bytes)
        return True

    def cut(self, cuts: Mapping[tuple[str, int], int]) -> None:
        """Delete WAL, oldest first in each timeline; one that cannot be deleted ends its timeline's cut."""
        for cut in self.plan.cuts:
            before = min(cut.before, cuts.get((cut.system_identifier, cut.timeline), 0))
            files = [
                one
                for one in self.contents.wal
                if (one.stored.system_identifier, one.stored.segment.timeline) == (cut.system_identifier, cut.timeline)
                and one.stored.segment.number < before
            ]
            for one in sorted(files, key=lambda one: one.stored.segment):
                try:
                    for key in one.keys:
                        self.store.delete(key)
                except UnavailableError:
                    raise
                except PgBackupError as error:
                    self.failures.append(f"{one.stored.segment.name} was not deleted: {error}")
                    break
                self.segments += 1
                self.bytes += one.stored.bytes


def delete_backup(site: Site, store: Store, folder: Folder) -> None:
    """Delete a backup, or what is left of one; raises RefusedError when somebody holds it.

    Whoever puts a hold looks for SHA256SUMS once more afterwards; so one of both gives way, whichever comes first.
    """
    backup_id = folder.backup_id
    _refuse_held(site, store, folder)
    if any(one.key.startswith(backup_id.key(HOLDS)) for one in folder.objects):
        lock_objects(store, backup_id, on=False)  # a hold that expired has locked them, where the storage can
    sums = backup_id.key(SUMS)
    if folder.holds(SUMS):
        text = store.read(sums)
        store.delete(sums)
        try:
            _refuse_held(site, store, folder)
        except RefusedError:
            with store.create(sums) as sink:
                sink.write(text)
            raise
    site.catalog.expire(str(backup_id), repository=store.name)
    for key in _in_order(folder):
        store.delete(key)
    store.clean(backup_id.directory)


def _refuse_held(site: Site, store: Store, folder: Folder) -> None:
    for hold in holds_of(site, store, folder.backup_id)[:1]:
        raise RefusedError(str(hold))


def _in_order(folder: Folder) -> Iterator[str]:
    """The manifest, the data, then verdicts and holds."""
    backup_id = folder.backup_id
    attested = backup_id.key("attest/")
    yield backup_id.key(MANIFEST)
    others = [one.key for one in folder.objects if one.key not in {backup_id.key(SUMS), backup_id.key(MANIFEST)}]
    yield from sorted(others, key=lambda key: (key.startswith(attested), key))

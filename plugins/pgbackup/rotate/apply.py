"""Delete what a plan says, and what is still to go by now: nothing else. Every step may be the last one of a process.

A backup: SHA256SUMS (from then on nobody takes it for a backup), the catalog, the manifest, the data, the rest. A WAL
segment: the description, then the bytes; oldest first, so that what is left has no gap.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.ports import Site, Store
from pgbackup.restore.holds import holds_of
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

    Raises BusyError while a backup of the cluster is taken, or another rotation runs; what planning raises. What
    cannot be deleted is in the result.
    """
    try:
        cluster, repository = str(shown["cluster"]), str(shown["repository"])
        going = {one["id"] for one in shown["backups"] if not one["rules"]} | set(shown["remains"])
        cuts = {(one["system_identifier"], one["timeline"]): int(one["before"]) for one in shown["wal"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError("not a rotation plan", detail=repr(error)) from None
    with site.catalog.exclusive(cluster, purpose="rotation"):
        now, contents = planned(site, cluster, repository)
        return _Rotation(site, site.repositories[repository], now, contents).run(going, cuts)


class _Rotation:
    """One rotation under way."""

    def __init__(self, site: Site, store: Store, plan: RotationPlan, contents: Contents) -> None:
        self.site = site
        self.store = store
        self.plan = plan
        self.contents = contents
        self.failures = list(plan.problems)
        self.bytes = 0

    def run(self, going: set[str], cuts: Mapping[tuple[str, int], int]) -> Applied:
        """Delete backups, then remains, then WAL."""
        gone: list[str] = []
        stuck: set[str | None] = set()
        for backup in self.plan.going:
            if backup.id not in going:
                stuck.add(backup.parent)
            elif backup.id in stuck:
                stuck.add(backup.parent)
                self.failures.append(f"{backup.id} stays: what stands on it is still there")
            elif self._try(backup.id, self.contents.folders[backup.id]):
                gone.append(backup.id)
            else:
                stuck.add(backup.parent)
        remains = {str(folder.backup_id): folder for folder in self.plan.remains}
        gone += [name for name, folder in remains.items() if name in going and self._try(name, folder)]
        segments = self._cut(cuts)
        log.info("%s: %d backups, %d segments, %d bytes deleted", self.store.name, len(gone), segments, self.bytes)
        return Applied(self.store.name, tuple(gone), segments, self.bytes, tuple(self.failures))

    def _try(self, name: str, folder: Folder) -> bool:
        try:
            holds = holds_of(self.site, self.store, folder.backup_id)
            if holds:  # since the plan
                raise RefusedError(str(holds[0]))
            delete_backup(self.site, self.store, folder)
        except PgBackupError as error:
            self.failures.append(f"{name} was not deleted: {error}")
            log.warning("%s", self.failures[-1])
            return False
        self.bytes += folder.bytes
        log.info("deleted %s: %d bytes", name, folder.bytes)
        return True

    def _cut(self, cuts: Mapping[tuple[str, int], int]) -> int:
        """Delete WAL, oldest first in each timeline; one that cannot be deleted ends its timeline's cut."""
        count = 0
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
                except PgBackupError as error:
                    self.failures.append(f"{one.stored.segment.name} was not deleted: {error}")
                    break
                count += 1
                self.bytes += one.stored.bytes
        return count


def delete_backup(site: Site, store: Store, folder: Folder) -> None:
    """Delete a backup, or what is left of one."""
    store.delete(folder.backup_id.key(SUMS))
    site.catalog.expire(str(folder.backup_id), repository=store.name)
    for key in _in_order(folder):
        store.delete(key)
    store.clean(folder.backup_id.directory)


def _in_order(folder: Folder) -> Iterator[str]:
    """The manifest, the data, then verdicts and holds."""
    backup_id: BackupId = folder.backup_id
    attested = backup_id.key("attest/")
    yield backup_id.key(MANIFEST)
    others = [one.key for one in folder.objects if one.key not in {backup_id.key(SUMS), backup_id.key(MANIFEST)}]
    yield from sorted(others, key=lambda key: (key.startswith(attested), key))

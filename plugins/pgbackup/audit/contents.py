"""What a repository holds, in one pass over its listing: one backup's objects at a time are kept in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby

from pgbackup.audit import names
from pgbackup.audit.encryption import Seals
from pgbackup.audit.judge import Wrong
from pgbackup.domain.drill import DRILLS
from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import KEY_FILE, MANIFEST, RECOVERY, SIGNATURE, SUMS, BackupId
from pgbackup.domain.model import Finding, Kind, ObjectInfo, Severity
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.sums import parse_sums
from pgbackup.domain.wal import sealed_files
from pgbackup.restore.fetch import describe_copy

_KINDS = frozenset(kind.value for kind in Kind)
_ATTEST = "attest/"
_WAL_ENDINGS = (".json", ".zst.gpg", ".zst")


class Contents:
    """Reads a repository; ``committed`` are then the backups of ``clusters`` that are there, with their times."""

    def __init__(self, site: Site, store: Store, clusters: Collection[str]) -> None:
        self._site = site
        self._store = store
        self._clusters = clusters
        self.began = site.clock()
        self._seals = Seals(site, store)
        self._broken = Wrong(
            names.WHOLE, "copy it again: `pgbackup verify ID --repository NAME` marks it damaged, then `pgbackup copy`"
        )
        self._orphans = Wrong(
            names.ORPHANS, "`pgbackup rotate` removes what never finished; look at the rest, then delete it by hand"
        )
        self._strangers = Wrong(
            names.STRANGERS,
            "nothing of ours is called like this: find out who wrote it, and whether they should be able to",
            Severity.WARNING,
        )
        self._objects = 0
        self.committed: dict[BackupId, datetime] = {}

    def read(self) -> Iterator[Finding]:
        """Read everything; yield the findings."""
        for top, objects in groupby(self._counted(), key=lambda one: one.key.partition("/")[0]):
            self._top(top, objects)
        yield from self._seals.findings()
        yield self._broken.finding(f"{len(self.committed)} backups")
        yield self._orphans.finding()
        yield self._strangers.finding(f"{self._objects} objects")

    def _top(self, top: str, objects: Iterable[ObjectInfo]) -> None:
        if top in _KINDS:
            for name, folder in groupby(objects, key=lambda one: one.key.split("/")[1]):
                self._folder(Kind(top), name, folder)
        elif top == "wal":
            for _, files in groupby(objects, key=lambda one: _stem(one.key)):
                self._wal(list(files))
        elif f"{top}/" == RECOVERY:
            for info in objects:
                if info.key.endswith(".gpg"):
                    self._seals.other(info.key)
        elif f"{top}/" != DRILLS:
            for info in objects:
                self._strangers.add(info.key)

    def _counted(self) -> Iterator[ObjectInfo]:
        for info in self._store.list(""):
            self._objects += 1
            yield info

    def _is_left(self, cluster: str, modified: datetime) -> bool:
        """Tell whether nobody is at work on it any more."""
        return modified < self.began - self._site.settings.cluster(cluster).retention.unfinished

    def _folder(self, kind: Kind, name: str, folder: Iterable[ObjectInfo]) -> None:
        try:
            backup_id = BackupId.parse(name)
        except ConfigurationError:
            backup_id = None
        if backup_id is None or backup_id.kind is not kind or backup_id.cluster not in self._site.settings.clusters:
            for info in folder:
                self._strangers.add(info.key)
        elif backup_id.cluster in self._clusters:
            prefix = backup_id.key("")
            self._backup(backup_id, {info.key.removeprefix(prefix): info for info in folder})

    def _backup(self, backup_id: BackupId, held: dict[str, ObjectInfo]) -> None:
        modified = max(info.modified for info in held.values())
        if SUMS not in held:
            if self._is_left(backup_id.cluster, modified):
                self._orphans.add(f"{backup_id}: {len(held)} objects of a backup that never finished")
            return
        try:
            sizes, encrypted = self._described(backup_id, held, modified)
        except RefusedError as error:
            self._broken.add(f"{backup_id}: {error.message}")
            return
        for name, size in sizes.items():
            if name not in held:
                self._broken.add(f"{backup_id}/{name} is missing")
            elif size not in {None, held[name].bytes}:
                self._broken.add(f"{backup_id}/{name} has {held[name].bytes} bytes, not {size}")
        keys = [name for name in held if KEY_FILE.fullmatch(name)]
        for name, info in held.items():
            known = name in {SUMS, MANIFEST, *sizes} or name in keys or name == SIGNATURE or name.startswith(_ATTEST)
            if not known and self._is_left(backup_id.cluster, info.modified):
                self._orphans.add(f"{info.key} belongs to no backup")
        data = [name for name in held if name in sizes and name not in keys]
        self._seals.backup(backup_id, data, keys, encrypted=encrypted)

    def _described(
        self, backup_id: BackupId, held: Collection[str], modified: datetime
    ) -> tuple[Mapping[str, int | None], bool]:
        """Return a backup's files with their sizes, and whether they are encrypted.

        backup.sh writes no manifest: the catalog knows nothing of its backups, and nobody the sizes.
        """
        if MANIFEST not in held:
            digests = parse_sums(self._store.read(backup_id.key(SUMS)), source=backup_id.key(SUMS))
            if MANIFEST not in digests:
                return dict.fromkeys(digests), any(KEY_FILE.fullmatch(name) for name in digests)
        self.committed[backup_id] = modified
        manifest = describe_copy(self._site, self._store, backup_id).manifest
        return {file.name: file.stored_bytes for file in manifest.files}, manifest.encrypted

    def _wal(self, files: list[ObjectInfo]) -> None:
        """Judge an archived file: its bytes, and the description that makes them count."""
        described = next(sealed_files([_stem(files[0].key) + _WAL_ENDINGS[0]]), None)
        if described is None or described.cluster not in self._site.settings.clusters:
            for info in files:
                self._strangers.add(info.key)
            return
        if described.cluster not in self._clusters:
            return
        data = [info for info in files if not info.key.endswith(_WAL_ENDINGS[0])]
        if not data:
            self._broken.add(f"{files[0].key} describes WAL that is not there")
        if len(data) == len(files) and self._is_left(described.cluster, max(info.modified for info in data)):
            self._orphans.add(f"{data[0].key} has no description")
        for info in data:
            self._seals.wal(info)


def _stem(key: str) -> str:
    return next((key.removesuffix(ending) for ending in _WAL_ENDINGS if key.endswith(ending)), key)

"""What one repository holds of a cluster, from its own listing, with the verdicts that the catalog knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbackup.catalog.rebuild import attested
from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest, parse_manifest
from pgbackup.domain.model import Backup, CopyState, Kind, ObjectInfo, State, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.retention import Physical, Stored, StoredSegment
from pgbackup.domain.wal import Segment, is_segment, sealed_files, segment_file
from pgbackup.restore.archive import read_sidecar
from pgbackup.restore.fetch import describe_copy
from pgbackup.restore.holds import holds_of
from pgbackup.restore.reach import verdict_of

_UNFINISHED_STATES = frozenset({State.RUNNING, State.FAILED})


@dataclass(frozen=True)
class Folder:
    """A backup's objects in one repository."""

    backup_id: BackupId
    objects: tuple[ObjectInfo, ...]

    @property
    def bytes(self) -> int:
        """What its objects take."""
        return sum(one.bytes for one in self.objects)

    @property
    def modified(self) -> datetime:
        """When its newest object was written."""
        return max(one.modified for one in self.objects)

    def holds(self, name: str) -> bool:
        """Tell whether an object is there."""
        return any(one.key == self.backup_id.key(name) for one in self.objects)


@dataclass(frozen=True)
class SegmentFiles:
    """A segment's objects, the description first: without it a file counts for nothing."""

    stored: StoredSegment
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """What a repository holds of a cluster: whole backups, what is left of others, WAL.

    ``remains`` are of captures, copies and deletions that did not end. ``problems`` are left alone, and told.
    """

    folders: dict[str, Folder]
    backups: tuple[Stored, ...]
    remains: tuple[Folder, ...]
    wal: tuple[SegmentFiles, ...]
    problems: tuple[str, ...]


def read_contents(site: Site, cluster: str, store: Store) -> Contents:
    """Read a repository; raises RefusedError when the catalog has not read it, UnavailableError when one is down."""
    known = {one.id: one for one in site.catalog.backups(cluster)}
    folders = {str(one.backup_id): one for one in _folders(store, cluster)}
    backups: list[Stored] = []
    remains: list[Folder] = []
    problems: list[str] = []
    unread: list[str] = []
    now = site.clock()
    unfinished = site.settings.cluster(cluster).retention.unfinished
    for name, folder in folders.items():
        copy = _copy_state(known.get(name), store.name)
        if not folder.holds(SUMS) and (copy is CopyState.EXPIRED or copy is None):
            if copy is CopyState.EXPIRED or folder.modified < now - unfinished:
                remains.append(folder)
            continue
        if copy is None and name in known and known[name].state in _UNFINISHED_STATES:
            problems.append(f"{name} is left alone: it is whole, and the catalog has it as {known[name].state}")
            continue
        if copy is None:
            unread.append(name)
            continue
        try:
            backups.append(_stored(site, store, folder, known[name]))
        except RefusedError as error:
            problems.append(f"{name} is left alone: {error.message}")
    if unread or (not known and folders):
        raise RefusedError(
            f"the catalog does not know what {store.name} holds",
            detail=", ".join(unread[:5] or list(folders)[:5]),
            hint=f"read it first: pgbackup catalog rebuild --from {store.name}",
        )
    return Contents(folders, tuple(backups), tuple(remains), tuple(read_wal(store, cluster)), tuple(problems))


def _folders(store: Store, cluster: str) -> Iterator[Folder]:
    for kind in Kind:
        found = store.list(f"{kind.value}/{cluster}_")
        for name, objects in itertools.groupby(found, key=lambda one: one.key.split("/")[1]):
            try:
                backup_id = BackupId.parse(name)
            except ConfigurationError:
                continue
            if backup_id.cluster == cluster:
                yield Folder(backup_id, tuple(objects))


def _copy_state(backup: Backup | None, repository: str) -> CopyState | None:
    """Return the state of the copy; None for what was never whole there."""
    if backup is None or backup.state in _UNFINISHED_STATES:
        return None
    return next((copy.state for copy in backup.copies if copy.repository == repository), None)


def _stored(site: Site, store: Store, folder: Folder, backup: Backup) -> Stored:
    """Describe a backup; one without SHA256SUMS too, while its manifest is there: its deletion was begun."""
    backup_id = folder.backup_id
    if folder.holds(SUMS):
        manifest = describe_copy(store, backup_id).manifest
    else:
        manifest = parse_manifest(store.read(backup_id.key(MANIFEST)), source=f"{backup_id}/{MANIFEST}")
    return Stored(
        manifest.id,
        manifest.kind,
        manifest.parent,
        manifest.backup_time,
        folder.bytes,
        _verdict(store, backup_id, backup),
        _physical(manifest),
        holds_of(site, store, backup_id),
    )


def _verdict(store: Store, backup_id: BackupId, backup: Backup) -> Verdict | None:
    """Return the verdict on this copy, else on the backup; raises RefusedError when the catalog has not read it."""
    copy = next(one for one in backup.copies if one.repository == store.name)
    if copy.state is CopyState.EXPIRED:  # and whole again: copied once more
        return verdict_of(store, backup_id)
    if copy.state is CopyState.DAMAGED:
        return Verdict.REJECTED
    if copy.state is CopyState.VERIFIED:
        return Verdict.VERIFIED
    if any(one.verdict and one.repository == store.name for one in attested(store, backup_id)):
        raise RefusedError("the catalog has not read its verdict", hint=f"pgbackup catalog rebuild --from {store.name}")
    return {State.VERIFIED: Verdict.VERIFIED, State.REJECTED: Verdict.REJECTED}.get(backup.state)


def _physical(manifest: Manifest) -> Physical | None:
    if manifest.kind is Kind.FULL:
        return None
    start, stop = Lsn.parse(manifest.start_lsn or ""), Lsn.parse(manifest.stop_lsn or "")
    return Physical(manifest.server.system_identifier, manifest.server.timeline, start, stop)


def read_wal(store: Store, cluster: str) -> Iterator[SegmentFiles]:
    """Yield the archive's segments with all their objects, ``.partial`` and ``.backup`` included; no history file."""
    sizes: dict[str, int] = {}
    objects = list(store.list(f"wal/{cluster}/"))
    for archived in sealed_files(one.key for one in objects):
        if is_segment(archived.name) and archived.system_identifier not in sizes:
            sizes[archived.system_identifier] = read_sidecar(store, archived).segment_size or 0
    found: dict[tuple[str, str], list[ObjectInfo]] = {}
    for one in objects:
        place = segment_file(one.key)
        if place is not None and sizes.get(place[0]):
            found.setdefault(place, []).append(one)
    for (system, name), some in found.items():
        segment = Segment.parse(name, sizes[system])
        stored = StoredSegment(system, segment, sum(one.bytes for one in some), max(one.modified for one in some))
        yield SegmentFiles(stored, _sidecars_first([one.key for one in some]))


def _sidecars_first(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(keys, key=lambda key: (not key.endswith(".json"), key)))

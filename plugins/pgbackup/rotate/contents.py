"""What one repository holds of a cluster, from its own listing, with the verdicts that the catalog knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.hold import standing
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest, parse_manifest
from pgbackup.domain.model import Backup, CopyState, Kind, ObjectInfo, State, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.retention import Physical, Stored
from pgbackup.restore.fetch import describe_copy
from pgbackup.restore.holds import Texts, all_holds, is_there
from pgbackup.restore.listing import folders as list_folders
from pgbackup.restore.reach import verdict_of
from pgbackup.rotate.segments import SegmentFiles, read_wal

_UNFINISHED_STATES = frozenset({State.RUNNING, State.FAILED})
_THERE = frozenset({CopyState.STORED, CopyState.VERIFIED})


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
class Contents:
    """What a repository holds of a cluster: whole backups, what is left of others, WAL.

    ``remains`` are of captures, copies and deletions that did not end. ``problems`` are left alone, and told. ``seen``
    is the time of its newest object, or of the clock when that is behind: a clock that jumped ahead makes nothing old.
    """

    folders: dict[str, Folder]
    backups: tuple[Stored, ...]
    remains: tuple[Folder, ...]
    wal: tuple[SegmentFiles, ...]
    problems: tuple[str, ...]
    seen: datetime


def read_contents(site: Site, cluster: str, store: Store) -> Contents:
    """Read a repository; raises RefusedError when the catalog and it do not know of the same backups.

    Raises UnavailableError when one of both is down.
    """
    listed = (one for kind in Kind for one in list_folders(store, kind, cluster))
    folders = {str(backup_id): Folder(backup_id, objects) for backup_id, objects in listed}
    objects = tuple(store.list(f"wal/{cluster}/"))
    newest = max((one.modified for one in (*objects, *(o for f in folders.values() for o in f.objects))), default=None)
    seen = min(site.clock(), newest) if newest else site.clock()
    known = {one.id: one for one in site.catalog.backups(cluster)}
    reading = _Reading(site, store, cluster, known, seen)
    for name, folder in folders.items():
        if not folder.holds(SUMS) and _copy_state(known.get(name), store.name) in _THERE:
            folders[name] = Folder(folder.backup_id, tuple(store.list(folder.backup_id.key(""))))  # copied meanwhile?
        reading.judge(name, folders[name])
    if reading.unread or (not known and folders):
        raise RefusedError(
            f"the catalog does not know what {store.name} holds",
            detail=", ".join(reading.unread[:5] or list(folders)[:5]),
            hint=f"read it first: pgbackup catalog rebuild --from {store.name}; mend or move away what that refuses",
        )
    _refuse_lost(store, known, folders)
    wal = tuple(read_wal(store, objects, reading.problems, locked=reading.locked))
    return Contents(folders, tuple(reading.backups), tuple(reading.remains), wal, tuple(reading.problems), seen)


def _refuse_lost(store: Store, known: Mapping[str, Backup], folders: Collection[str]) -> None:
    """Raise RefusedError when copies are gone that the catalog has: a listing that is cut short deletes nothing."""
    lost = [
        name
        for name, backup in known.items()
        if name not in folders
        and _copy_state(backup, store.name) in _THERE
        and not is_there(store, BackupId.parse(name).key(SUMS))  # copied since it was listed
    ]
    if lost:
        raise RefusedError(
            f"{store.name} does not show {len(lost)} backups that the catalog has there",
            detail=", ".join(lost[:5]),
            hint=f"is it the right place, and is all of it listed? If a backup is lost: `pgbackup verify {lost[0]}"
            f" --repository {store.name}` finds that, then it is copied again",
        )


def _copy_state(backup: Backup | None, repository: str) -> CopyState | None:
    """Return the state of the copy; None for what was never whole there."""
    if backup is None or backup.state in _UNFINISHED_STATES:
        return None
    return next((copy.state for copy in backup.copies if copy.repository == repository), None)


@dataclass
class _Reading:
    """A repository that is being read: each folder is a backup, remains, or a problem."""

    site: Site
    store: Store
    cluster: str
    known: Mapping[str, Backup]
    seen: datetime
    backups: list[Stored] = field(default_factory=list)
    remains: list[Folder] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unfinished: timedelta = self.site.settings.cluster(self.cluster).retention.unfinished
        self.retain = _retain(self.site, self.store)
        self.holds: Mapping[str, Texts] = all_holds(self.site, self.store, self.cluster)

    def judge(self, name: str, folder: Folder) -> None:
        """Say what a folder is."""
        backup = self.known.get(name)
        copy, old = _copy_state(backup, self.store.name), folder.modified < self.seen - self.unfinished
        if not folder.holds(SUMS) and copy in {CopyState.EXPIRED, None}:
            if (copy or old) and not self.locked(folder.modified):
                self.remains.append(folder)
        elif copy is None and backup and backup.state in _UNFINISHED_STATES:
            self.problems.append(f"{name} is left alone: it is whole, and the catalog has it as {backup.state}")
        elif backup is None or (copy is None and old):
            self.unread.append(name)
        elif copy is None:
            self._leave(folder, backup, None, "just copied")
        else:
            try:
                self.backups.append(self._stored(folder, backup))
            except RefusedError as error:
                if copy is CopyState.DAMAGED:  # that is known
                    self._leave(folder, backup, Verdict.REJECTED)
                    return
                self.problems.append(f"{name} is left alone: {error.message}")
                self._leave(folder, backup, None, f"left alone: {error.message}")

    def _leave(self, folder: Folder, backup: Backup, verdict: Verdict | None, *reasons: str) -> None:
        """Keep what nobody can read for some reasons, and what the catalog says that it stands on."""
        moment = backup.backup_time or backup.started_at
        self.backups.append(
            Stored(backup.id, backup.kind, backup.parent, moment, folder.bytes, verdict, reasons=reasons)
        )

    def _stored(self, folder: Folder, backup: Backup) -> Stored:
        """Describe a backup; one without SHA256SUMS too, while its manifest is there: its deletion was begun."""
        backup_id, store = folder.backup_id, self.store
        if folder.holds(SUMS):
            manifest = describe_copy(self.site, store, backup_id).manifest
        else:
            manifest = parse_manifest(store.read(backup_id.key(MANIFEST)), source=f"{backup_id}/{MANIFEST}")
        sizes = {one.key: one.bytes for one in folder.objects}
        wanted = {file.name: file.stored_bytes for file in manifest.files} | {SUMS: sizes.get(backup_id.key(SUMS))}
        until = folder.modified + self.retain
        lost = [name for name, count in wanted.items() if count is None or sizes.get(backup_id.key(name)) != count]
        return Stored(
            manifest.id,
            manifest.kind,
            manifest.parent,
            manifest.backup_time,
            folder.bytes,
            _verdict(store, backup_id, backup),
            _physical(manifest),
            standing([self.holds.get(manifest.id, {})], self.seen),
            (f"locked by the storage until {until:%Y-%m-%d %H:%M} UTC",) if self.locked(folder.modified) else (),
            f"{', '.join(sorted(lost)[:5])} is missing or cut" if lost else "",
        )

    def locked(self, modified: datetime) -> bool:
        """Tell whether the storage keeps what was written then."""
        return bool(self.retain) and modified + self.retain > self.seen


def _retain(site: Site, store: Store) -> timedelta:
    """Return for how long a storage locks each object."""
    configured = site.settings.repositories.get(store.name)
    lock = configured.s3.lock if configured and configured.s3 else None
    return (lock.retain if lock else None) or timedelta(0)


def _verdict(store: Store, backup_id: BackupId, backup: Backup) -> Verdict | None:
    """Return the verdict on this copy, else on the backup; raises RefusedError when the catalog has not read it.

    What is written beside the copy is true: the catalog may be older, or restored.
    """
    copy = next(one for one in backup.copies if one.repository == store.name)
    written = verdict_of(store, backup_id)
    if copy.state is CopyState.EXPIRED:  # and whole again: copied once more
        return written
    told = {CopyState.VERIFIED: Verdict.VERIFIED, CopyState.DAMAGED: Verdict.REJECTED}.get(copy.state)
    if written is not None and written is not told:
        raise RefusedError("the catalog has not read its verdict", hint=f"pgbackup catalog rebuild --from {store.name}")
    return told or {State.VERIFIED: Verdict.VERIFIED, State.REJECTED: Verdict.REJECTED}.get(backup.state)


def _physical(manifest: Manifest) -> Physical | None:
    """Return where a physical backup lies; raises RefusedError when its manifest does not say that."""
    if manifest.kind is Kind.FULL:
        return None
    try:
        start, stop = Lsn.parse(manifest.start_lsn or ""), Lsn.parse(manifest.stop_lsn or "")
    except ConfigurationError:
        raise RefusedError("its manifest does not say where it lies in the WAL") from None
    return Physical(manifest.server.system_identifier, manifest.server.timeline, start, stop)

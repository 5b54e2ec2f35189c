"""Read a cluster's WAL archive in one repository: what it holds, and its files, each checked before it has its name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnavailableError
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import (
    Archived,
    Gap,
    Sealed,
    Segment,
    Stretch,
    Switch,
    gaps,
    history_timeline,
    is_segment,
    parse_history,
    parse_sealed,
    read_header,
    sealed_files,
    stretches,
)

log = logging.getLogger(__name__)

_HEADER_BYTES = 64
_DECOMPRESS = Command(("zstd", "--decompress", "--stdout", "--quiet"))


@dataclass(frozen=True)
class Listing:
    """What the archive holds of one system: whole segments and history files; others (``.partial``) don't count.

    ``conflicts`` are names with two different contents: nobody can tell which is right.
    """

    system_identifier: str
    segment_size: int
    segments: Mapping[Segment, Archived]
    histories: Mapping[int, Archived]
    conflicts: tuple[str, ...]

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The WAL without gaps, oldest first in each timeline."""
        return stretches(self.segments)

    def last(self, timeline: int) -> Segment | None:
        """Return a timeline's last segment."""
        return max((segment for segment in self.segments if segment.timeline == timeline), default=None)


def list_archive(store: Store, cluster: str, system_identifier: str) -> Listing:
    """List one system's archive; an empty listing where there is none."""
    segments: dict[Segment, Archived] = {}
    histories: dict[int, Archived] = {}
    conflicts: list[str] = []
    size = 0
    for found in sealed_files(info.key for info in store.list(f"wal/{cluster}/{system_identifier}/")):
        timeline = history_timeline(found.name)
        if timeline is not None:
            other: Archived | None = histories.setdefault(timeline, found)
        elif is_segment(found.name):
            size = size or _segment_size(store, found)
            other = segments.setdefault(Segment.parse(found.name, size), found)
        else:
            continue
        if other is not found:
            conflicts.append(found.name)
    return Listing(system_identifier, size, segments, histories, tuple(conflicts))


def read_sidecar(store: Store, archived: Archived) -> Sealed:
    """Return what is known of an archived file; raises RefusedError when its description is damaged."""
    return parse_sealed(store.read(archived.sidecar_key), source=archived.sidecar_key)


def _segment_size(store: Store, archived: Archived) -> int:
    size = read_sidecar(store, archived).segment_size
    if not size:
        raise RefusedError(f"the description of {archived.name} does not say how large segments are")
    return size


def read_histories(site: Site, store: Store, listing: Listing) -> Mapping[int, tuple[Switch, ...]]:
    """Return the timelines before each timeline whose history is archived.

    Raises UnfitError where it cannot be decrypted here, RefusedError for a damaged one.
    """
    if not listing.histories:
        return {}
    found: dict[int, tuple[Switch, ...]] = {}
    with site.keyring.opened() as unlock:
        for timeline, archived in listing.histories.items():
            sink = _Memory()
            _fetch(site, store, archived, unlock, sink)
            found[timeline] = parse_history(bytes(sink.data).decode(errors="replace"))
    return found


def find_gaps(site: Site, store: Store, listing: Listing, others: Iterable[Stretch] = ()) -> tuple[Gap, ...]:
    """Return what is missing in an archive, to which ``others`` are added; by its histories if they can be read."""
    histories: Mapping[int, tuple[Switch, ...]] = {}
    try:
        histories = read_histories(site, store, listing)
    except PgBackupError as error:
        log.info("timelines are joined without their histories: %s", error)
    return gaps([*listing.stretches, *others], histories)


def fetch_wal(
    site: Site, store: Store, wanted: Sequence[Archived], folder: Path, unlock: tuple[Command, ...], *, jobs: int
) -> None:
    """Bring archived files into a folder under their own names, in parallel; what is there already stays.

    Raises RefusedError for one that is damaged, swapped or of another cluster: recovery must not run into it, because
    a server takes such a file for the end of the WAL.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = [archived for archived in wanted if not (folder / archived.name).exists()]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(_fetch_file, site, store, archived, folder, unlock) for archived in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def copy_archived(store: Store, archived: Archived, folder: Path) -> None:
    """Copy an archived file as it rests, and its description, under their keys in a folder; bytes are checked."""
    sealed = read_sidecar(store, archived)
    target = folder / sealed.data_key
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = sha256(usedforsecurity=False)
    with store.open(sealed.data_key) as source, target.open("xb") as sink:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            sink.write(chunk)
    if digest.hexdigest() != sealed.stored_sha256:
        raise _damaged(archived, "its stored bytes do not match their checksum")
    (folder / sealed.sidecar_key).write_bytes(sealed.to_json())


def check_header(archived: Archived, page: bytes) -> None:
    """Raise RefusedError unless a segment's first page belongs where the archive has it."""
    header = read_header(page)
    segment = Segment.parse(archived.name, header.segment_size)
    if header.system_identifier != archived.system_identifier or header.start != segment.start:
        raise RefusedError(
            f"{archived.name} holds other WAL than its name says",
            detail=f"system {header.system_identifier} at {header.start}, expected {archived.system_identifier}"
            f" at {segment.start}",
            hint="somebody put another cluster's or another segment's file there: restore it from another copy",
        )
    if header.timeline > segment.timeline:
        raise RefusedError(f"{archived.name} was written on timeline {header.timeline}")


def _fetch_file(site: Site, store: Store, archived: Archived, folder: Path, unlock: tuple[Command, ...]) -> None:
    path = folder / archived.name
    unfinished = path.with_name(f".{path.name}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as sink:
            _fetch(site, store, archived, unlock, sink)
        if is_segment(archived.name):
            with unfinished.open("rb") as file:
                check_header(archived, file.read(_HEADER_BYTES))
        unfinished.replace(path)
    except OSError as error:
        raise UnavailableError(
            f"cannot write {path}", detail=error.strerror, hint="free space where it is recovered"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _fetch(site: Site, store: Store, archived: Archived, unlock: tuple[Command, ...], sink: object) -> None:
    sealed = read_sidecar(store, archived)
    if sealed.encrypted and not unlock:
        raise RefusedError(f"{sealed.data_key} is encrypted, and encryption is off here")
    filters = (*(unlock if sealed.encrypted else ()), _DECOMPRESS)
    try:
        with store.open(sealed.data_key) as source:
            piped = site.runner.pipe(source, through=filters, sink=sink)  # type: ignore[arg-type]
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise _damaged(archived, error.detail) from None
    if (piped.source.bytes, piped.source.sha256) != (sealed.stored_bytes, sealed.stored_sha256):
        raise _damaged(archived, "its stored bytes do not match their checksum")
    if (piped.sink.bytes, piped.sink.sha256) != (sealed.plain_bytes, archived.digest):
        raise _damaged(archived, "its content does not match the checksum in its name")


def _damaged(archived: Archived, detail: str | None) -> PgBackupError:
    return RefusedError(
        f"{archived.name} in the WAL archive is damaged", detail=detail, hint="use the copy of another repository"
    )


class _Memory:
    """A sink for what is small."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

"""Seal a finished WAL file in the archive: compressed, encrypted, durable, described; never overwritten.

The bytes go first, their description (the sidecar) last: without it a file is not sealed. Bytes that another sealer
left without one, because it was killed or is still at work, are taken as they are: two encryptions of one file differ,
and only the bytes that stay may be described.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import (
    RestorePoint,
    Sealed,
    Segment,
    history_timeline,
    is_segment,
    parse_history,
    read_header,
    sealed_files,
    timeline_prefix,
)
from pgbackup.postgres.landmarks import Landmarks, parse_damage, parse_landmarks
from pgbackup.postgres.physical import read_landmarks
from pgbackup.postgres.programs import Programs
from pgbackup.restore.archive import read_sidecar

log = logging.getLogger(__name__)

HEADER_BYTES = 64
_COMPRESS = Command(("zstd", "-1", "--single-thread", "--quiet", "--stdout"))
# How far a record that begins in a segment is followed into the next one.
_AHEAD = 1 << 16


def seal_file(site: Site, cluster: str, path: Path, *, system_identifier: str, programs: Programs) -> Sealed:
    """Store a finished segment or a history file; return once it is durable, or was already.

    ``programs`` are of the server's major version. Raises RefusedError, and stores nothing, for a file that is not
    what its name says, not of this system, damaged, or archived already with another content.
    """
    sealed = store_file(site, cluster, path, system_identifier=system_identifier, programs=programs)
    publish(site, sealed)
    return sealed


def store_file(site: Site, cluster: str, path: Path, *, system_identifier: str, programs: Programs) -> Sealed:
    """Store the bytes of a file; see seal_file. It counts as sealed once ``publish`` has stored what this returns.

    The file is read once: what is to be stored waits in memory for the checksum that is in its name.
    """
    with path.open("rb", buffering=0) as file:
        known = _segment(file, path, system_identifier) if is_segment(path.name) else _history(file, path)
        file.seek(0)
        body = io.BytesIO()
        piped = site.runner.pipe(file, through=(_COMPRESS, *site.keyring.seal()), sink=body)
    sealed = Sealed(
        cluster=cluster,
        name=path.name,
        system_identifier=system_identifier,
        plain_bytes=piped.source.bytes,
        plain_sha256=piped.source.sha256,
        stored_bytes=piped.sink.bytes,
        stored_sha256=piped.sink.sha256,
        encrypted=bool(site.keyring.suffix),
        sealed_at=site.clock(),
        **known,
    )
    folder = timeline_prefix(cluster, system_identifier, sealed.timeline)
    for earlier in sealed_files(info.key for info in site.local.list(f"{folder}{path.name}-")):
        if earlier.digest != sealed.plain_sha256:
            raise RefusedError(
                f"another content is archived as {path.name}",
                detail=f"sha256 {earlier.digest}; this one has {sealed.plain_sha256}",
                hint="two servers believe to be the same one, or a disk lies: keep both files, take a new base",
            )
        return read_sidecar(site.local, earlier)
    if sealed.segment_size:
        segment = Segment.parse(path.name, sealed.segment_size)
        sealed = sealed.model_copy(update=_landmarks(site, path, segment, programs))
    try:
        with site.local.create(sealed.data_key) as sink:
            sink.write(body.getbuffer())
    except RefusedError:
        return _adopted(site.local, sealed)
    return sealed


def _adopted(store: Store, sealed: Sealed) -> Sealed:
    """Describe the bytes that are stored under this key already.

    Without a private key nobody can look into them. Their name is the checksum of what they hold, and no sealer gives
    it to anything that was not read to its end, encrypted and durable; whoever fetches them checks both again.
    """
    stored = store.read(sealed.data_key)
    return sealed.model_copy(update={"stored_bytes": len(stored), "stored_sha256": sha256(stored).hexdigest()})


def publish(site: Site, sealed: Sealed) -> None:
    """Store the sidecar: from now on the file is sealed. One that is there already describes the same bytes."""
    with contextlib.suppress(RefusedError), site.local.create(sealed.sidecar_key) as sink:
        sink.write(sealed.to_json())


def _segment(file: IO[bytes], path: Path, system_identifier: str) -> dict[str, Any]:
    """Check that a segment is what its name says; return what the sidecar says of it."""
    header = read_header(file.read(HEADER_BYTES))
    segment = Segment.parse(path.name, header.segment_size)
    size = path.stat().st_size
    if size != segment.size:
        raise RefusedError(f"{path.name} is cut", detail=f"{size} bytes of {segment.size}")
    if (header.system_identifier, header.start) != (system_identifier, segment.start):
        raise RefusedError(
            f"{path.name} holds other WAL than its name says",
            detail=f"system {header.system_identifier} at {header.start},"
            f" expected {system_identifier} at {segment.start}",
            hint="another server answers under this connection: one cluster has one server",
        )
    if header.timeline != segment.timeline and not _begins_here(path, segment, header.timeline):
        raise RefusedError(
            f"{path.name} was written on timeline {header.timeline}",
            hint="only the first segment of a timeline begins on an older one, as its history file tells",
        )
    return {
        "timeline": segment.timeline,
        "segment_size": segment.size,
        "start_lsn": str(segment.start),
        "end_lsn": str(segment.end),
    }


def _begins_here(path: Path, segment: Segment, older: int) -> bool:
    """Tell whether the segment's timeline was begun within it, from the history file beside it."""
    history = path.with_name(f"{segment.timeline:08X}.history")
    switches = parse_history(history.read_text(errors="replace")) if history.exists() else ()
    return bool(switches) and older < segment.timeline and segment.start <= switches[-1].position < segment.end


def _history(file: IO[bytes], path: Path) -> dict[str, Any]:
    timeline = history_timeline(path.name)
    if timeline is None:
        raise RefusedError(f"{path.name} is not a finished WAL file", hint="a .partial never becomes a whole segment")
    switches = parse_history(file.read().decode(errors="replace"))
    if not switches or switches[-1].timeline >= timeline:
        raise RefusedError(f"{path.name} tells no history of timeline {timeline}")
    return {"timeline": timeline}


def _landmarks(site: Site, path: Path, segment: Segment, programs: Programs) -> dict[str, Any]:
    """Return what pg_waldump knows of a segment; raises RefusedError where its records are broken."""
    following = follower(path, segment)
    with _named(path, segment, following) as folder:
        ahead = _AHEAD if following else 0
        command = read_landmarks(
            programs, folder, timeline=segment.timeline, start=segment.start, end=segment.end.plus(ahead)
        )
        # It ends with 1 where the WAL that is here ends, and where no record begins: that is nobody's fault.
        output, complaints = site.runner.run(command, ok=frozenset({0, 1}))
    damage = parse_damage(complaints)
    if damage is not None and segment.start <= damage < segment.end:
        raise RefusedError(
            f"{path.name} is damaged at {damage}",
            detail=complaints,
            hint=f"remove {path}, and restart the receiver: it asks the server for it again",
        )

    def read(lsn: Lsn, count: int) -> bytes:
        found = b""
        for source, begin in ((path, segment.start), (following, segment.end)):
            if source is not None and len(found) < count:
                with source.open("rb") as file:
                    file.seek(lsn.plus(len(found)).position - begin.position)
                    found += file.read(count - len(found))
        return found

    found = parse_landmarks(output.decode(errors="replace"), before=segment.end, size=segment.size, read=read)
    return _described(found)


def _described(found: Landmarks) -> dict[str, Any]:
    points = tuple(RestorePoint(name=one.name, lsn=str(one.lsn), moment=one.moment) for one in found.points)
    return {name: value for name, value in asdict(found).items() if name != "points"} | {"restore_points": points}


def follower(path: Path, segment: Segment) -> Path | None:
    """Return the file of the next segment, finished or not, if any WAL is in it: a record may end there."""
    after = path.with_name(segment.next().name)
    for candidate in (after, after.with_name(f"{after.name}.partial")):
        with contextlib.suppress(FileNotFoundError), candidate.open("rb") as file:
            if any(file.read(2)):
                return candidate
    return None


@contextlib.contextmanager
def _named(path: Path, segment: Segment, following: Path | None) -> Iterator[Path]:
    """Give a segment, and the unfinished one behind it, the names that pg_waldump looks for."""
    with tempfile.TemporaryDirectory(prefix=".look-", dir=path.parent) as name:
        folder = Path(name)
        (folder / path.name).symlink_to(path.absolute())
        if following is not None:
            (folder / segment.next().name).symlink_to(following.absolute())
        yield folder

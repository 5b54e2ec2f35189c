"""WAL files and the archive of them: names, keys, what a listing says about gaps. The only place that knows the layout.

``wal/<cluster>/<system identifier>/<timeline>/<file>-<sha256 of the plain file>.zst[.gpg]`` holds the bytes, and beside
it ``<file>-<sha256>.json``, written last, says what they are: a file without it is not sealed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.lsn import Lsn

_SEGMENT = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"(?P<timeline>[0-9A-F]{8})\.history")
_OTHER = re.compile(r"[0-9A-F]{24}(\.[0-9A-F]{8}\.backup|\.partial)")
_KEY = re.compile(
    r"wal/(?P<cluster>[a-z][a-z0-9_-]{0,30})/(?P<system>\d+)/(?P<timeline>[0-9A-F]{8})/"
    r"(?P<name>[0-9A-F]{8}[0-9A-F.a-z]*?)-(?P<digest>[0-9a-f]{64})\.(?P<rest>json|zst|zst\.gpg)"
)
_HISTORY_LINE = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)
# The first page's header: magic, info, timeline, address, rest of a record, (padding), system, segment size, page size.
_LONG_HEADER = struct.Struct("=HHIQI4xQII")
_LONG = 0x0002
_SIZES = frozenset(1 << power for power in range(20, 31))


@dataclass(frozen=True, order=True)
class Segment:
    """One segment file: its timeline, its number from the beginning of the WAL, the size of all segments in bytes."""

    timeline: int
    number: int
    size: int

    @classmethod
    def parse(cls, name: str, size: int) -> Self:
        """Read a file name of 24 hexadecimal digits; raises ConfigurationError for anything else."""
        per_file = (1 << 32) // size
        low = int(name[16:], 16) if _SEGMENT.fullmatch(name) else per_file
        if low >= per_file:
            raise ConfigurationError("not the name of a WAL segment", detail=repr(name[:80]))
        return cls(int(name[:8], 16), int(name[8:16], 16) * per_file + low, size)

    @classmethod
    def holding(cls, position: Lsn, timeline: int, size: int) -> Self:
        """Return the segment that holds the byte at a position."""
        return cls(timeline, position.position // size, size)

    @property
    def name(self) -> str:
        """The file's name."""
        per_file = (1 << 32) // self.size
        return f"{self.timeline:08X}{self.number // per_file:08X}{self.number % per_file:08X}"

    @property
    def start(self) -> Lsn:
        """The position of its first byte."""
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        """The position behind its last byte."""
        return Lsn((self.number + 1) * self.size)

    def next(self) -> Segment:
        """Return the segment that follows on the same timeline."""
        return Segment(self.timeline, self.number + 1, self.size)


def is_segment(name: str) -> bool:
    """Tell whether a file name is that of a whole segment."""
    return _SEGMENT.fullmatch(name) is not None


def history_timeline(name: str) -> int | None:
    """Return the timeline whose origin a history file tells; None for another file."""
    match = _HISTORY.fullmatch(name)
    return int(match["timeline"], 16) if match else None


def is_wal_file(name: str) -> bool:
    """Tell whether a server or pg_receivewal calls a WAL file like this; ``.partial`` and ``.backup`` count."""
    return bool(_SEGMENT.fullmatch(name) or _HISTORY.fullmatch(name) or _OTHER.fullmatch(name))


@dataclass(frozen=True)
class Header:
    """What the first page of a segment says that it belongs to."""

    system_identifier: str
    timeline: int
    start: Lsn
    segment_size: int


def read_header(page: bytes) -> Header:
    """Read a segment's first bytes (40 are enough); raises RefusedError when they are no header of WAL.

    The timeline is the one that the page was written on: behind a promotion in the middle of a segment, that of its
    beginning.
    """
    if len(page) >= _LONG_HEADER.size:
        magic, info, timeline, address, _, system, size, _ = _LONG_HEADER.unpack_from(page)
        if magic & 0xFF00 == 0xD100 and info & _LONG and size in _SIZES:
            return Header(str(system), timeline, Lsn(address), size)
    raise RefusedError("not a WAL segment: its first page has no header", hint="the file is cut, overwritten or empty")


@dataclass(frozen=True)
class Switch:
    """A timeline left another one at a position; from there on that one's WAL is another history."""

    timeline: int
    position: Lsn


def parse_history(text: str) -> tuple[Switch, ...]:
    """Read a history file: the timelines before it, oldest first, each with the position where it was left."""
    return tuple(Switch(int(line[1]), Lsn.parse(line[2])) for line in _HISTORY_LINE.finditer(text))


class RestorePoint(BaseModel):
    """A named restore point (pg_create_restore_point)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    lsn: str
    moment: datetime


class Sealed(BaseModel):
    """The sidecar of an archived file. What only pg_waldump can tell is None where it was not asked.

    ``start_lsn`` and ``end_lsn`` are None for history files. ``commits`` counts commit records, of which the times and
    the (32-bit) transaction ids are the least and the greatest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    cluster: str
    name: str
    system_identifier: str
    timeline: int
    segment_size: int | None = None
    start_lsn: str | None = None
    end_lsn: str | None = None
    plain_bytes: int
    plain_sha256: str
    stored_bytes: int
    stored_sha256: str
    encrypted: bool
    sealed_at: datetime
    commits: int | None = None
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    first_xid: int | None = None
    last_xid: int | None = None
    restore_points: tuple[RestorePoint, ...] | None = None

    @property
    def stem(self) -> str:
        """The object's key without its ending."""
        return stem(self.cluster, self.system_identifier, self.timeline, self.name, self.plain_sha256)

    @property
    def data_key(self) -> str:
        """The key of the bytes."""
        return f"{self.stem}.zst.gpg" if self.encrypted else f"{self.stem}.zst"

    @property
    def sidecar_key(self) -> str:
        """The key of this document."""
        return f"{self.stem}.json"

    def to_json(self) -> bytes:
        """Serialize for the repository."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def parse_sealed(data: bytes, *, source: str) -> Sealed:
    """Read a stored sidecar; raises RefusedError when it is damaged, or not what its own name says."""
    try:
        sealed = Sealed.model_validate_json(data)
    except ValidationError:
        raise RefusedError(f"{source} is not a WAL file's description that this version reads") from None
    if sealed.sidecar_key != source:
        raise RefusedError(f"{source} describes another file", detail=sealed.sidecar_key)
    return sealed


def stem(cluster: str, system_identifier: str, timeline: int, name: str, digest: str) -> str:
    """Return the key of an archived file without its ending."""
    return f"{timeline_prefix(cluster, system_identifier, timeline)}{name}-{digest}"


def timeline_prefix(cluster: str, system_identifier: str, timeline: int) -> str:
    """Return where a timeline's files are."""
    return f"wal/{cluster}/{system_identifier}/{timeline:08X}/"


@dataclass(frozen=True)
class Archived:
    """A file of the archive as a listing shows it, sealed or not."""

    cluster: str
    system_identifier: str
    timeline: int
    name: str
    digest: str

    @property
    def sidecar_key(self) -> str:
        """The key of its description."""
        return stem(self.cluster, self.system_identifier, self.timeline, self.name, self.digest) + ".json"


def sealed_files(keys: Iterable[str]) -> Iterator[Archived]:
    """Yield the sealed files among the keys of a listing: those whose sidecar is there."""
    for key in keys:
        match = _KEY.fullmatch(key)
        if match and match["rest"] == "json" and is_wal_file(match["name"]):
            yield Archived(
                match["cluster"], match["system"], int(match["timeline"], 16), match["name"], match["digest"]
            )


def segment_file(key: str) -> tuple[str, str] | None:
    """Return (system identifier, segment name) of what belongs to a segment; None for histories and other keys."""
    match = _KEY.fullmatch(key)
    if match and (is_segment(match["name"]) or _OTHER.fullmatch(match["name"])):
        return match["system"], match["name"][:24]
    return None


@dataclass(frozen=True)
class Stretch:
    """WAL without a gap on one timeline, from a segment's start to a segment's end."""

    timeline: int
    start: Lsn
    end: Lsn


def stretches(segments: Iterable[Segment]) -> tuple[Stretch, ...]:
    """Join neighbouring segments; between two stretches of one timeline lies a gap."""
    found: list[Stretch] = []
    for segment in sorted(set(segments)):
        if found and (found[-1].timeline, found[-1].end) == (segment.timeline, segment.start):
            found[-1] = Stretch(segment.timeline, found[-1].start, segment.end)
        else:
            found.append(Stretch(segment.timeline, segment.start, segment.end))
    return tuple(found)


@dataclass(frozen=True)
class Gap:
    """WAL that is nowhere, between WAL that is; the timeline is that of its end."""

    timeline: int
    start: Lsn
    end: Lsn

    def __str__(self) -> str:
        size = (self.end.position - self.start.position) / 1e6
        return f"{self.start} to {self.end} on timeline {self.timeline} ({size:.0f} MB)"


def gaps(found: Iterable[Stretch], histories: Mapping[int, Iterable[Switch]]) -> tuple[Gap, ...]:
    """Return what is missing of one system's WAL on the way to any of its timelines; stretches may overlap.

    The way to a timeline is its own WAL, and that of each older one up to where its history left it. Where nobody can
    read the history, an older one has to reach where the timeline begins. Nothing is missing before the first stretch.
    """
    held = sorted(found, key=lambda one: (one.start, one.timeline))
    first = {one.timeline: one.start for one in reversed(held)}
    missing = set()
    for timeline, begin in first.items():
        left = {switch.timeline: switch.position for switch in histories.get(timeline, ())}
        left = left or {older: begin for older in first if older < timeline}
        reached = None
        for one in held:
            end = one.end if one.timeline == timeline else min(one.end, left.get(one.timeline, Lsn(0)))
            if end <= one.start:
                continue  # behind the branch, or on another one
            if reached is not None and reached < one.start:
                missing.add(Gap(one.timeline, reached, one.start))
            reached = max(reached or end, end)
    return tuple(sorted(missing, key=lambda gap: (gap.timeline, gap.start)))

"""What a recovery can aim at in a WAL segment: commits and named restore points, as pg_waldump prints them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgbackup.domain.lsn import Lsn

_LANDMARK = re.compile(
    r"^rmgr: (?:Transaction|XLOG) +len \(rec/tot\): +\d+/ +(?P<bytes>\d+), tx: +(?P<xid>\d+), "
    r"lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+), prev [0-9A-F/]+, desc: "
    r"(?:COMMIT(?:_PREPARED (?P<prepared>\d+):)? (?P<moment>[\d-]+ [\d:.]+) UTC|RESTORE_POINT )",
    re.MULTILINE,
)
_DAMAGE = re.compile(r"error in WAL record at [0-9A-F]+/[0-9A-F]+: .* (?P<lsn>[0-9A-F]+/[0-9A-F]+)")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_PAGE = 8192
_PAGE_HEADER, _FIRST_PAGE_HEADER = 24, 40
_POINT = struct.Struct("=q64s")  # when (microseconds since 2000), name


@dataclass(frozen=True)
class Point:
    """A named restore point."""

    name: str
    lsn: Lsn
    moment: datetime


@dataclass(frozen=True)
class Landmarks:
    """What begins in a segment: commits, with their least and greatest times and 32-bit transaction ids, and points."""

    commits: int
    first_commit: datetime | None
    last_commit: datetime | None
    first_xid: int | None
    last_xid: int | None
    points: tuple[Point, ...]


def parse_landmarks(text: str, *, before: Lsn, size: int, read: Callable[[Lsn, int], bytes]) -> Landmarks:
    """Read pg_waldump's lines (in UTC) of records that begin before a position, in segments of ``size`` bytes.

    pg_waldump prints no restore point's time, and names as they are, line feeds included: these come from the WAL
    itself, of which ``read`` returns so many bytes from a position.
    """
    found = list(_LANDMARK.finditer(text))
    while found and Lsn.parse(found[-1]["lsn"]) >= before:
        found.pop()
    commits = [one for one in found if one["moment"]]
    moments = [one["moment"] for one in commits]  # all of one length: their order is that of the text
    xids = [int(one["prepared"] or one["xid"]) for one in commits]
    return Landmarks(
        len(commits),
        _utc(min(moments)) if moments else None,
        _utc(max(moments)) if moments else None,
        min(xids, default=None),
        max(xids, default=None),
        tuple(_point(Lsn.parse(one["lsn"]), int(one["bytes"]), size, read) for one in found if one["moment"] is None),
    )


def parse_damage(complaints: str) -> Lsn | None:
    """Return where pg_waldump found no valid record, from what it printed to standard error; None when it did not."""
    match = _DAMAGE.search(complaints)
    return Lsn.parse(match["lsn"]) if match else None


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _point(lsn: Lsn, length: int, size: int, read: Callable[[Lsn, int], bytes]) -> Point:
    record = _without_headers(read(lsn, length + _PAGE_HEADER + _FIRST_PAGE_HEADER), lsn, size)[:length]
    moment, name = _POINT.unpack(record[-_POINT.size :])  # the record's own data come last in it
    return Point(name.split(b"\0")[0].decode(errors="replace"), lsn, _EPOCH + timedelta(microseconds=moment))


def _without_headers(raw: bytes, lsn: Lsn, size: int) -> bytes:
    """Take the page headers out of WAL that begins at a position."""
    kept, position = bytearray(), lsn.position
    while raw:
        if position % _PAGE == 0:
            header = _PAGE_HEADER if position % size else _FIRST_PAGE_HEADER
            raw, position = raw[header:], position + header
        room = _PAGE - position % _PAGE
        kept += raw[:room]
        raw, position = raw[room:], position + room
    return bytes(kept)

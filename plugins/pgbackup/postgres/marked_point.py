"""The marked point: the LSN at which replay gives exactly what a snapshot saw, on a busy server.

A snapshot sees the commits of the transactions that had ended for it. Replay sees the commits whose records lie before
the stop point. Both agree behind the last commit that the snapshot sees and up to the first one that it does not see,
unless these two stand in the wrong order: commits become visible in another order than their records are written. Then
another snapshot is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pgbackup.domain.lsn import Lsn

_RECORD = re.compile(
    r"rmgr: Transaction .*?tx: +(?P<xid>\d+), lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+), .*?desc: "
    r"(?P<kind>COMMIT|COMMIT_PREPARED) (?:(?P<prepared>\d+): )?"
)
_XID_BITS = 32


@dataclass(frozen=True)
class Visibility:
    """pg_current_snapshot(): xmin:xmax:xip, in 64 bits; WAL records hold 32."""

    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Visibility:
        """Read ``xmin:xmax:xip,xip``."""
        _, xmax, running = text.split(":")
        return cls(int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    def sees(self, xid: int) -> bool:
        """Tell whether the snapshot sees the commit of a transaction, given by its 32 low bits."""
        distance = (self.xmax - xid) % (1 << _XID_BITS)
        before = 0 < distance < 1 << (_XID_BITS - 1)
        return before and xid not in {one % (1 << _XID_BITS) for one in self.running}


@dataclass(frozen=True)
class Commit:
    """A commit record."""

    lsn: Lsn
    xid: int


def commits(text: str) -> Iterator[Commit]:
    """Read pg_waldump's lines of the Transaction resource manager."""
    for line in text.splitlines():
        match = _RECORD.match(line)
        if match:
            yield Commit(Lsn.parse(match["lsn"]), int(match["prepared"] or match["xid"]))


@dataclass(frozen=True)
class StopRange:
    """Where recovery may stop (not inclusive) to show exactly what a snapshot saw; both ends belong to it."""

    low: Lsn
    high: Lsn


def stop_range(records: list[Commit], seen: Visibility, *, before: Lsn, consistent_from: Lsn) -> StopRange | None:
    """Return where replay equals a snapshot, None where it never does.

    ``before`` is the insert position before the snapshot (sequences were read then), ``consistent_from`` the physical
    backup's stop. ``records`` has to reach behind the snapshot, so that a commit that it does not see is among them.
    """
    visible = [record.lsn for record in records if seen.sees(record.xid)]
    unseen = [record.lsn for record in records if not seen.sees(record.xid)]
    if not unseen:
        return None
    high = min(unseen)
    if visible and max(visible) >= high:
        return None
    low = max(before, consistent_from, *(lsn.plus(1) for lsn in visible))
    return StopRange(low, high) if low <= high else None


def common_point(ranges: list[StopRange]) -> Lsn | None:
    """Return one stop point for several snapshots, the latest that fits all; None when there is none."""
    if not ranges:
        return None
    point = min(one.high for one in ranges)
    return point if all(one.low <= point for one in ranges) else None

"""Is a backup's size what it usually is? Median and MAD of comparable backups. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbackup.domain.model import Backup, State

_NORMAL = 1.4826
"""The MAD times this is the standard deviation of what is distributed normally."""
_SPREADS = 3.0
_MOST = 28
"""How many earlier backups are looked at: a level of long ago is no measure."""
_LEVEL = 3
"""So many neighbours show a new level: what their median is near to is usual now."""

COUNTED = frozenset({State.CAPTURED, State.VERIFIED, State.EXPIRED})


@dataclass(frozen=True)
class Captured:
    """What is compared: when, how many bytes were stored, how large the databases were."""

    at: datetime
    bytes: int
    database_bytes: int


@dataclass(frozen=True)
class Size:
    """A size and what is usual for it: ``low`` to ``high`` around ``median``, from ``count`` comparable backups.

    Without enough of them there is nothing that is usual: ``median`` is None, and the size is ``ok``.
    """

    bytes: int
    count: int
    median: float | None = None
    low: float = 0.0
    high: float = 0.0

    @property
    def ok(self) -> bool:
        """It is not unusual."""
        return self.median is None or self.low <= self.bytes <= self.high

    @property
    def deviation(self) -> float:
        """By which part it differs from the median: -0.5 is half as much."""
        return self.bytes / self.median - 1 if self.median else 0.0


def comparable(backups: Sequence[Backup], kind: str, method: str | None) -> list[Captured]:
    """Return the captures of one kind and method, newest first; ``backups`` come newest first."""
    return [
        Captured(one.backup_time, one.bytes, one.database_bytes or 0)
        for one in backups
        if (one.kind, one.method) == (kind, method) and one.state in COUNTED and one.backup_time and one.bytes
    ]


def usual(captures: Sequence[Captured], *, deviation: float, floor: int, history: int) -> Size:
    """Judge the newest of some captures, newest first, by those before it.

    Those of the same weekday count where there are ``history`` of them, else all. Usual is what differs from their
    median by less than the ``deviation`` (a part of it), three spreads, or the ``floor`` in bytes, whichever is most;
    also what is near to the backups just before it: a new level is told once. Databases that grew explain a backup that
    grew with them; databases that shrank explain nothing: that is what a loss of data looks like.
    """
    newest, earlier = captures[0], captures[1:]
    days = [one for one in earlier if one.at.weekday() == newest.at.weekday()][:_MOST]
    known = days if len(days) >= history else list(earlier[:_MOST])
    if len(known) < history:
        return Size(newest.bytes, len(known))
    size = _against(newest, known, deviation, floor)
    level = _against(newest, earlier[:_LEVEL], deviation, floor)
    return size if size.ok or not level.ok else level


def _against(newest: Captured, known: Sequence[Captured], deviation: float, floor: int) -> Size:
    raw = [float(one.bytes) for one in known]
    grown = [one.bytes * _growth(newest, one) for one in known]
    low_median, high_median = statistics.median(raw), statistics.median(grown)
    low = low_median - max(deviation * low_median, _spread(raw, low_median), floor)
    high = high_median + max(deviation * high_median, _spread(grown, high_median), floor)
    return Size(newest.bytes, len(known), high_median, low, high)


def _growth(newest: Captured, other: Captured) -> float:
    if not other.database_bytes or not newest.database_bytes:
        return 1.0
    return max(newest.database_bytes / other.database_bytes, 1.0)


def _spread(values: Sequence[float], median: float) -> float:
    return _SPREADS * _NORMAL * statistics.median(abs(one - median) for one in values)

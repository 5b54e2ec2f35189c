"""The recovery plan: which backups and which WAL bring a cluster back to a target, and how long that takes. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Verdict
from pgbackup.domain.rates import Rates
from pgbackup.domain.survey import Holdings, Link, Survey, Way, survey
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target
from pgbackup.domain.wal import Sealed, Stretch, stretches

_P = TypeVar("_P", datetime, Lsn)


@dataclass(frozen=True)
class Step:
    """One step of a plan, with its predicted duration."""

    name: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class RecoveryPlan:
    """What a recovery will do.

    ``target`` is what was asked for; ``stop`` is what the server is told, where replay ends; ``at_end`` says that the
    end of the WAL there is may come first, and is right. ``chain`` are the links with files, ``bundles`` those that add
    WAL. ``wal`` is what replay may read, ``archived`` what of it comes from the archive; ``timeline`` is its last one,
    ``branch`` the one whose history is followed. ``loses`` is the time from the target to the newest known commit.
    What cannot be read in ``repository`` is read in the ``others``: none where somebody named the one to use.
    """

    cluster: str
    system_identifier: str
    repository: str
    target: Target
    stop: Target
    at_end: bool
    branch: int
    timeline: int
    segment_size: int
    chain: tuple[str, ...]
    bundles: tuple[str, ...]
    wal: tuple[Stretch, ...]
    archived: tuple[Stretch, ...]
    consistent: Lsn
    steps: tuple[Step, ...]
    loses: timedelta | None
    warnings: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def repositories(self) -> tuple[str, ...]:
        """Where it may read, the first one first."""
        return (self.repository, *self.others)

    @property
    def backups(self) -> tuple[str, ...]:
        """The backups that it reads."""
        return (*self.chain, *self.bundles)

    @property
    def seconds(self) -> float:
        """The predicted duration."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True)
class _Goal:
    """What a way has to do for a target: replay into the segment ``number``, of which the next may be needed too."""

    number: int
    until: Lsn
    at_end: bool


def plan_recovery(
    holdings: Holdings, target: Target, timeline: int | None = None, rates: Rates | None = None
) -> RecoveryPlan:
    """Plan the recovery of a cluster, on the way to ``timeline`` (default: the newest).

    Of the chains that reach the target the quickest is taken, of verified ones where there are any. Raises RefusedError
    with the windows that can be reached when none does.
    """
    found = survey(holdings, timeline)
    stop = _resolved(found, target)
    plans = [
        _plan(found, way, target, stop, goal, rates or Rates())
        for way in found.ways
        if (goal := _goal(found, way, stop)) is not None
    ]
    if not plans:
        raise _refusal(found, target, stop)
    proved = {link.id for link in holdings.links if link.verdict is Verdict.VERIFIED}
    return min(plans, key=lambda plan: (not proved.issuperset(plan.chain), plan.seconds, plan.chain))


def _resolved(found: Survey, target: Target) -> Target:
    """Turn a name into the position of its newest restore point, where a sidecar knows it."""
    if isinstance(target, AtName):
        for sealed in _described(found):
            for point in reversed(sealed.restore_points or ()):
                if point.name == target.name:
                    return AtLsn(Lsn.parse(point.lsn))
    return target


def _described(found: Survey) -> Iterator[Sealed]:
    """Yield the sidecars of the archived segments on the way, newest first."""
    for numbers in sorted(found.archived, key=lambda one: one.start, reverse=True):
        for number in reversed(numbers):
            yield found.holdings.sidecar(found.segment(number))


def _goal(found: Survey, way: Way, stop: Target) -> _Goal | None:
    """Return what a way has to do for a target, None when it does not reach it."""
    match stop:
        case Latest():
            return _end(found, way) if way.beyond == found.beyond else None
        case AtTime(moment):
            return _time_goal(found, way, moment)
        case AtLsn(lsn):
            return _lsn_goal(found, way, lsn)
        case AtXid(xid):
            return _xid_goal(found, way, xid)
        case AtName():
            unknown = (number for number in _backwards(found, way) if _points_unknown(found.sidecar(number)))
            return next((_up_to(found, number) for number in unknown), None)


def _end(found: Survey, way: Way) -> _Goal:
    return _Goal(way.beyond - 1, Lsn(way.beyond * found.holdings.segment_size), at_end=True)


def _goes_on(found: Survey, way: Way, number: int) -> bool:
    """Tell whether a segment's timeline goes on in the next one."""
    return number + 1 < way.beyond and found.segment(number + 1).timeline == found.segment(number).timeline


def _up_to(found: Survey, number: int) -> _Goal:
    return _Goal(number, found.segment(number).end, at_end=False)


def _backwards(found: Survey, way: Way) -> Iterator[int]:
    """Return the segments behind a way's consistent point, newest first."""
    return reversed(range((way.last.stop.position - 1) // found.holdings.segment_size, way.beyond))


def _lsn_goal(found: Survey, way: Way, lsn: Lsn) -> _Goal | None:
    size = found.holdings.segment_size
    if not way.last.stop <= lsn <= Lsn(way.beyond * size):
        return None
    number = (lsn.position - 1) // size
    # Replay stops when it meets a record at or behind the position: there is one in the next segment at the latest.
    return _Goal(number, lsn, at_end=not _goes_on(found, way, number))


def _time_goal(found: Survey, way: Way, moment: datetime) -> _Goal | None:
    """Find a segment with a commit later than a moment: by bisection, then on in growing strides.

    A segment too many is staged where stamps are not in order, or where nobody knows them; never one too few.
    """
    if not way.last.moment <= moment <= found.windows[way.beyond].latest:
        return None
    numbers = range((way.last.stop.position - 1) // found.holdings.segment_size, way.beyond)
    index = bisect.bisect_right(numbers, moment, key=lambda number: found.bound(number, way))
    stride = 1
    while index < len(numbers):
        sealed = found.sidecar(numbers[index])
        if sealed is not None and sealed.last_commit is not None and sealed.last_commit > moment:
            return _up_to(found, numbers[index])
        index += stride
        stride *= 2
    return _end(found, way)


def _xid_goal(found: Survey, way: Way, xid: int) -> _Goal | None:
    """Find the last segment that may hold the end of a transaction which cannot have ended before the way's chain."""
    if way.last.next_xid is None or (xid - way.last.next_xid) % 2**32 >= 2**31:
        return None
    for number in _backwards(found, way):
        sealed = found.sidecar(number)
        if sealed is None or sealed.commits is None:
            return _up_to(found, number)
        if sealed.commits and (sealed.first_xid or 0) <= xid % 2**32 <= (sealed.last_xid or 0):
            return _up_to(found, number)
    return None


def _points_unknown(sealed: Sealed | None) -> bool:
    return sealed is None or sealed.restore_points is None


def _plan(found: Survey, way: Way, target: Target, stop: Target, goal: _Goal, rates: Rates) -> RecoveryPlan:
    holdings, size = found.holdings, found.holdings.segment_size
    # One segment more where there is one: the record that ends replay may go on in it.
    needed = range(way.first, goal.number + (2 if _goes_on(found, way, goal.number) else 1))
    elsewhere = [number for number in needed if number not in way.own]
    archived = [number for number in elsewhere if any(number in numbers for numbers in found.archived)]
    bundles = _choose_bundles(found, sorted(set(elsewhere) - set(archived)))
    segments = [found.segment(number) for number in needed]
    links = {link.id: link for link in holdings.links}
    return RecoveryPlan(
        cluster=holdings.cluster,
        system_identifier=holdings.system_identifier,
        repository=holdings.repository,
        target=target,
        stop=stop,
        at_end=goal.at_end,
        branch=found.timeline,
        timeline=segments[-1].timeline,
        segment_size=size,
        chain=tuple(link.id for link in way.chain),
        bundles=bundles,
        wal=stretches(segments),
        archived=stretches(found.segment(number) for number in archived),
        consistent=way.last.stop,
        steps=_steps(way, [links[name] for name in bundles], goal.until, len(elsewhere) * size, rates),
        loses=_loses(found, target, stop, goal),
        warnings=tuple(_warnings(way)),
    )


def _choose_bundles(found: Survey, missing: Sequence[int]) -> tuple[str, ...]:
    """Choose bundles that hold what the archive does not: at each gap the one that reaches farthest."""
    chosen: list[str] = []
    covered = 0
    for number in missing:
        if number >= covered:
            link, numbers = max((one for one in found.bundles if number in one[1]), key=lambda one: one[1].stop)
            chosen.append(link.id)
            covered = numbers.stop
    return tuple(chosen)


def _steps(way: Way, bundles: Sequence[Link], until: Lsn, staged: int, rates: Rates) -> tuple[Step, ...]:
    fetched = [*way.chain, *bundles]
    stored = sum(link.stored_bytes for link in fetched)
    unpacked = sum(link.data_bytes for link in way.chain)
    combined = unpacked if len(way.chain) > 1 else 0
    replayed = until.position - way.last.start.position
    return (
        Step("fetch and decrypt", stored, stored / rates.fetch),
        Step("unpack, check, combine", unpacked, unpacked / rates.unpack + combined / rates.combine),
        Step("stage WAL", staged, staged / rates.stage),
        Step("replay", replayed, replayed / rates.replay),
        Step("start", 0, rates.start),
    )


def _loses(found: Survey, target: Target, stop: Target, goal: _Goal) -> timedelta | None:
    """Return the time from what is recovered to the newest known commit; None where nobody knows it."""
    newest = max(window.latest for window in found.windows.values())
    if isinstance(target, Latest):
        return timedelta(0)
    if isinstance(stop, AtTime):
        return newest - stop.moment
    sealed = found.sidecar(goal.number)
    reached = sealed.last_commit if sealed else None
    return None if reached is None else max(newest - reached, timedelta(0))


def _warnings(way: Way) -> Iterator[str]:
    unproved = [link.id for link in way.chain if link.verdict is not Verdict.VERIFIED]
    if unproved:
        yield f"not verified: {', '.join(unproved)}"
    if way.last.unlogged_tables:
        yield f"unlogged tables come back empty: {', '.join(way.last.unlogged_tables)}"
    yield "transactions that are prepared at the target wait for a decision: see pg_prepared_xacts"


def _refusal(found: Survey, target: Target, stop: Target) -> RefusedError:
    """Say why a target cannot be reached, with everything that can."""
    windows = tuple(found.windows.values())
    match stop:
        case AtTime(moment):
            reason = _outside(moment, [(window.earliest, window.latest) for window in windows])
        case AtLsn(lsn):
            reason = _outside(lsn, [(window.start, window.end) for window in windows])
        case Latest():
            reason = "lies behind a gap in the WAL"
        case _:
            reason = "is not in the WAL that can be replayed"
    others = [str(timeline) for timeline in found.holdings.timelines if timeline != found.timeline]
    branches = f"; --timeline {' or '.join(others)} is another history" if others else ""
    reachable = "; ".join(map(str, windows))
    return RefusedError(
        f"{target} {reason}",
        detail=f"{found.holdings.repository} can bring back timeline {found.timeline} from {reachable}",
        hint=f"choose a moment in there (--to TIME), or --to latest{branches}",
    )


def _outside(position: _P, windows: Sequence[tuple[_P, _P]]) -> str:
    if position < min(start for start, _ in windows):
        return "lies before the end of the first backup"
    if position > max(end for _, end in windows):
        return "lies behind the last WAL"
    return "lies in a gap of the WAL"

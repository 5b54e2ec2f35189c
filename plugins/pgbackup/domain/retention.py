"""Retention: which rule keeps a backup, and which WAL goes. Pure.

Only verified backups count for a rule, and age is counted to the newest verified one, never to the clock alone: while
new backups fail, or the clock is wrong, nothing goes. Promotion is a rule's name; nothing is copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pgbackup.domain.hold import Hold
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.settings import Retention
from pgbackup.domain.wal import Segment

_PAST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Physical:
    """Where a physical backup lies in the WAL of its system."""

    system_identifier: str
    timeline: int
    start: Lsn
    stop: Lsn


@dataclass(frozen=True)
class Stored:
    """A backup as one repository holds it; ``verdict`` is that of this copy, else of the backup.

    ``physical`` is None for dumps. ``holds`` are those that stand.
    """

    id: str
    kind: Kind
    parent: str | None
    moment: datetime
    bytes: int
    verdict: Verdict | None
    physical: Physical | None = None
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True)
class StoredSegment:
    """A segment of a system's archive with everything that belongs to it; ``modified`` is its newest object's."""

    system_identifier: str
    segment: Segment
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class Fate:
    """A backup with the rules that keep it; none: it goes."""

    backup: Stored
    rules: tuple[str, ...]


@dataclass(frozen=True)
class WalCut:
    """A timeline's WAL before segment ``before`` goes: ``count`` segments of ``bytes`` bytes; ``kept`` ones stay."""

    system_identifier: str
    timeline: int
    before: int
    count: int
    bytes: int
    kept: int


@dataclass(frozen=True)
class Retained:
    """What stays and what goes of one cluster in one repository; newest backup first."""

    fates: tuple[Fate, ...]
    cuts: tuple[WalCut, ...]

    @property
    def going(self) -> tuple[Stored, ...]:
        """The backups that no rule keeps, newest first: what stands on another goes before it."""
        return tuple(fate.backup for fate in self.fates if not fate.rules)


def plan_retention(
    backups: Sequence[Stored], segments: Iterable[StoredSegment], policy: Retention, now: datetime
) -> Retained:
    """Give each backup the rules that keep it, and each timeline the segment before which its WAL goes."""
    rules: defaultdict[str, list[str]] = defaultdict(list)
    dumps = [one for one in backups if one.physical is None]
    physical = [one for one in backups if one.physical is not None]
    archive = _archive(segments)
    for one, rule in _dump_rules(_verified(dumps), policy, now):
        rules[one.id].append(rule)
    _probation(dumps, policy, now, rules)
    _probation(physical, policy, now, rules)
    as_of = _as_of(physical, now)
    horizon = as_of - policy.window if as_of > _PAST else _PAST
    starts = _anchors(physical, archive, horizon)
    for one in _verified(physical):
        if one.kind is Kind.BASE and one.moment >= horizon:
            starts.append(one)
        elif one.kind is Kind.INCREMENTAL and one.moment >= as_of - policy.incremental:
            rules[one.id].append("incremental")
    for one in starts:
        rules[one.id].append("recovery window")
    for some in (dumps, physical):
        for one in _newest(_verified(some)):
            rules[one.id].append("newest verified")
    for one in backups:
        rules[one.id].extend(str(hold) for hold in one.holds)
    _keep_parents(physical, rules)
    starts += [one for one in physical if any(hold.with_wal for hold in one.holds)]
    ordered = sorted(backups, key=lambda one: (one.moment, one.id), reverse=True)
    return Retained(
        tuple(Fate(one, tuple(dict.fromkeys(rules[one.id]))) for one in ordered),
        tuple(_cuts(archive, starts, horizon)),
    )


def _verified(backups: Iterable[Stored]) -> list[Stored]:
    return [one for one in backups if one.verdict is Verdict.VERIFIED]


def _newest(backups: Iterable[Stored]) -> list[Stored]:
    found = max(backups, key=lambda one: (one.moment, one.id), default=None)
    return [found] if found else []


def _as_of(backups: Iterable[Stored], now: datetime) -> datetime:
    """The moment that ages are counted to; before everything while nothing is verified."""
    return min(now, max((one.moment for one in _verified(backups)), default=_PAST))


def _probation(backups: Sequence[Stored], policy: Retention, now: datetime, rules: defaultdict[str, list[str]]) -> None:
    as_of = _as_of(backups, now)
    for one in backups:
        if one.verdict is None and one.moment + policy.unverified >= as_of:
            rules[one.id].append("not yet verified")
        elif one.verdict is Verdict.REJECTED and one.moment + policy.rejected >= as_of:
            rules[one.id].append("rejected: kept for study")


def _dump_rules(dumps: Sequence[Stored], policy: Retention, now: datetime) -> Iterator[tuple[Stored, str]]:
    if not dumps:
        return
    as_of = _as_of(dumps, now).astimezone(UTC)
    for one in dumps:
        if one.moment >= as_of - policy.daily:
            yield one, "daily"
    by_age = sorted(dumps, key=lambda one: (one.moment, one.id))
    limits = {
        "weekly": as_of - policy.weekly,
        "monthly": months_before(as_of, policy.monthly),
        "yearly": _PAST if policy.yearly is None else months_before(as_of, 12 * policy.yearly),
    }
    for rule, limit in limits.items():
        first: dict[object, Stored] = {}
        for one in by_age:
            if one.moment >= limit:
                first.setdefault(_period(rule, one.moment.astimezone(UTC)), one)
        yield from ((one, rule) for one in first.values())


def _period(rule: str, moment: datetime) -> object:
    if rule == "weekly":
        return tuple(moment.isocalendar())[:2]
    return (moment.year, moment.month) if rule == "monthly" else moment.year


def months_before(moment: datetime, months: int) -> datetime:
    """Return the same day some months earlier, or the last of that month.

    >>> months_before(datetime(2028, 2, 29, 7, tzinfo=UTC), 12).isoformat()
    '2027-02-28T07:00:00+00:00'
    """
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    if year < 1:
        return _PAST
    for day in range(moment.day, 0, -1):
        try:
            return moment.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    raise AssertionError


_Archive = dict[tuple[str, int], list[StoredSegment]]
"""The segments of each system and timeline, in order."""


def _archive(segments: Iterable[StoredSegment]) -> _Archive:
    found: defaultdict[tuple[str, int], list[StoredSegment]] = defaultdict(list)
    for one in segments:
        found[one.system_identifier, one.segment.timeline].append(one)
    return {key: sorted(some, key=lambda one: one.segment.number) for key, some in sorted(found.items())}


def _anchors(backups: Sequence[Stored], archive: _Archive, horizon: datetime) -> list[Stored]:
    """Return the bases that the first moments of the window are reached from, for each timeline that lives in it.

    The newest one before the window; where a timeline has none, the newest one of each older timeline before each
    branch: which timeline left which is in encrypted files, that nobody here may open.
    """
    bases: defaultdict[tuple[str, int], list[Stored]] = defaultdict(list)
    begins: dict[tuple[str, int], Lsn] = {key: some[0].segment.start for key, some in archive.items()}
    alive = {key for key, some in archive.items() if max(one.modified for one in some) >= horizon}
    for one in backups:
        if one.physical is None or one.verdict is not Verdict.VERIFIED:
            continue
        key = (one.physical.system_identifier, one.physical.timeline)
        begins[key] = min(begins.get(key, one.physical.start), one.physical.start)
        if one.kind is Kind.BASE:
            bases[key].append(one)
        if one.moment >= horizon:
            alive.add(key)
    found: list[Stored] = []
    for system, timeline in sorted(alive):
        before = _newest(one for one in bases[system, timeline] if one.moment < horizon)
        if not before:
            way = [key for key in begins if key[0] == system and key[1] <= timeline]
            for key in way:
                for branch in {min(begins[one], begins[system, timeline]) for one in way if one > key}:
                    before += _newest(one for one in bases[key] if one.physical and one.physical.stop <= branch)
        found += before
    return list({one.id: one for one in found}.values())


def _keep_parents(backups: Sequence[Stored], rules: defaultdict[str, list[str]]) -> None:
    """Keep what something kept stands on, to the base."""
    known = {one.id: one for one in backups}
    for one in sorted(backups, key=lambda one: (one.moment, one.id), reverse=True):
        child = one
        while rules[child.id] and child.parent in known and not rules[child.parent]:
            rules[child.parent].append(f"{child.id} stands on it")
            child = known[child.parent]


def _cuts(archive: _Archive, starts: Sequence[Stored], horizon: datetime) -> Iterator[WalCut]:
    """Cut each timeline before what a start needs and before what the window saw: what stays has no new gap."""
    for (system, timeline), some in archive.items():
        size = some[0].segment.size
        needed = [
            one.physical.start.position // size
            for one in starts
            if one.physical and one.physical.system_identifier == system and one.physical.timeline <= timeline
        ]
        seen = [one.segment.number for one in some if one.modified >= horizon]
        before = min([*needed, *seen], default=some[-1].segment.number + 1)
        going = [one for one in some if one.segment.number < before]
        yield WalCut(system, timeline, before, len(going), sum(one.bytes for one in going), len(some) - len(going))

"""Retention: which rule keeps a backup, and which WAL goes. Pure.

Only verified backups count for a rule, and age is counted to the newest verified one, never to the clock alone: while
new backups fail, or the clock is wrong, nothing goes. Promotion is a rule's name; nothing is copied.

What is damaged counts for nothing, and stays as long as it would if it were whole: somebody may mend it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    ``physical`` is None for dumps, and where nobody can read where a backup lies. ``holds`` are those that stand,
    ``reasons`` whatever else keeps it. ``damage`` says what is missing of it.
    """

    id: str
    kind: Kind
    parent: str | None
    moment: datetime
    bytes: int
    verdict: Verdict | None
    physical: Physical | None = None
    holds: tuple[Hold, ...] = ()
    reasons: tuple[str, ...] = ()
    damage: str = ""


@dataclass(frozen=True)
class StoredSegment:
    """A segment of a system's archive with everything that belongs to it; ``modified`` is its newest object's.

    ``locked``: the storage lets nobody delete it yet.
    """

    system_identifier: str
    segment: Segment
    bytes: int
    modified: datetime
    locked: bool = False


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


_Rules = defaultdict[str, list[str]]
"""Why backups stay, by id; what has no entry goes."""


def plan_retention(
    backups: Iterable[Stored], segments: Iterable[StoredSegment], policy: Retention, now: datetime
) -> Retained:
    """Give each backup the rules that keep it, and each timeline the segment before which its WAL goes."""
    ordered = sorted(backups, key=_age, reverse=True)
    archive = _archive(segments)
    sound = [one for one in ordered if not one.damage]
    rules, starts, horizon = _kept(sound, archive, policy, now)
    if len(sound) < len(ordered):
        as_if, more, _ = _kept(ordered, archive, policy, now)
        damaged = {one.id for one in ordered if one.damage}
        rules.update({name: [f"{rule}, were it whole" for rule in as_if[name]] for name in damaged & as_if.keys()})
        starts += [one for one in more if one.id in damaged]
        _keep_parents(ordered, rules)
    starts += [one for one in ordered if one.holds and any(hold.with_wal for hold in one.holds)]
    return Retained(
        tuple(Fate(one, tuple(dict.fromkeys(rules[one.id])) if one.id in rules else ()) for one in ordered),
        tuple(_cuts(archive, starts, horizon)),
    )


def _kept(
    ordered: Sequence[Stored], archive: _Archive, policy: Retention, now: datetime
) -> tuple[_Rules, list[Stored], datetime]:
    """Return the rules, the bases that the recovery window starts from, and when it begins. Newest backup first."""
    rules: _Rules = defaultdict(list)
    dumps = [one for one in ordered if one.kind is Kind.FULL]
    physical = [one for one in ordered if one.physical is not None]
    for one, rule in _dump_rules(_verified(dumps), policy, now):
        rules[one.id].append(rule)
    proved = _verified(physical)
    bases = [one for one in proved if one.kind is Kind.BASE]
    as_of = _as_of(proved, now)
    horizon = as_of - policy.window if proved else _PAST
    starts = _anchors(proved, archive, horizon) + [one for one in bases if one.moment >= horizon]
    for one in proved:
        if one.kind is Kind.INCREMENTAL and one.moment >= as_of - policy.incremental:
            rules[one.id].append("incremental")
    for one in starts:
        rules[one.id].append("recovery window")
    for some in (_verified(dumps), proved, bases):
        for one in some[:1]:
            rules[one.id].append("newest verified")
    for some in (dumps, [one for one in ordered if one.kind is not Kind.FULL]):
        _probation(some, policy, now, rules)
    for one in ordered:
        if one.holds or one.reasons:
            rules[one.id] += [*map(str, one.holds), *one.reasons]
    _keep_parents(ordered, rules)
    return rules, starts, horizon


def _age(one: Stored) -> tuple[datetime, str]:
    return one.moment, one.id


def _verified(backups: Iterable[Stored]) -> list[Stored]:
    return [one for one in backups if one.verdict is Verdict.VERIFIED]


def _as_of(verified: Sequence[Stored], now: datetime) -> datetime:
    """The moment that ages are counted to; before everything while nothing is verified."""
    return min(now, verified[0].moment) if verified else _PAST


def _probation(backups: Sequence[Stored], policy: Retention, now: datetime, rules: _Rules) -> None:
    as_of = _as_of(_verified(backups), now)
    for one in backups:
        if one.verdict is None and one.moment + policy.unverified >= as_of:
            rules[one.id].append("not yet verified")
        elif one.verdict is Verdict.REJECTED and one.moment + policy.rejected >= as_of:
            rules[one.id].append("rejected: kept for study")


def _dump_rules(dumps: Sequence[Stored], policy: Retention, now: datetime) -> Iterator[tuple[Stored, str]]:
    if not dumps:
        return
    as_of = _as_of(dumps, now).astimezone(UTC)
    by_age = dumps[::-1]
    moments = [one.moment for one in by_age]
    yield from ((one, "daily") for one in by_age[bisect_left(moments, as_of - policy.daily) :])
    limits = {
        "weekly": as_of - policy.weekly,
        "monthly": months_before(as_of, policy.monthly),
        "yearly": _PAST if policy.yearly is None else months_before(as_of, 12 * policy.yearly),
    }
    for rule, limit in limits.items():
        first: dict[object, Stored] = {}
        for one in by_age[bisect_left(moments, limit) :]:
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


def _anchors(proved: Sequence[Stored], archive: _Archive, horizon: datetime) -> list[Stored]:
    """Return the bases that the first moments of the window are reached from, for each timeline that lives in it.

    The newest one before the window; where a timeline has none, the newest one of each older timeline before each
    branch: which timeline left which is in encrypted files, that nobody here may open. Newest backup first.
    """
    bases: defaultdict[tuple[str, int], list[Stored]] = defaultdict(list)
    begins = {key: some[0].segment.start.position for key, some in archive.items()}
    alive = {key for key, some in archive.items() if any(one.modified >= horizon for one in reversed(some))}
    for one in proved:
        if one.physical is not None:
            key, start = (one.physical.system_identifier, one.physical.timeline), one.physical.start.position
            begins[key] = min(begins.get(key, start), start)
            if one.moment >= horizon:
                alive.add(key)
            if one.kind is Kind.BASE:
                bases[key].append(one)
    found: list[Stored] = []
    for system, timeline in sorted(alive):
        before = [one for one in bases[system, timeline] if one.moment < horizon][:1]
        if not before:
            way = [key for key in begins if key[0] == system and key[1] <= timeline]
            for key in way:
                for branch in {min(begins[one], begins[system, timeline]) for one in way if one > key}:
                    before += _stopped(bases[key], branch)[:1]
        found += before
    return list({one.id: one for one in found}.values())


def _stopped(backups: Iterable[Stored], branch: int) -> list[Stored]:
    return [one for one in backups if one.physical and one.physical.stop.position <= branch]


def _keep_parents(ordered: Iterable[Stored], rules: _Rules) -> None:
    """Keep what something kept stands on, to the base."""
    known = {one.id: one for one in ordered}
    for one in [one for one in ordered if one.id in rules]:
        child = one
        while child.parent in known and child.parent not in rules:
            rules[child.parent].append(f"{child.id} stands on it")
            child = known[child.parent]


def _cuts(
    archive: Mapping[tuple[str, int], list[StoredSegment]], starts: Sequence[Stored], horizon: datetime
) -> Iterator[WalCut]:
    """Cut each timeline before what a start needs and before what the window saw: what stays has no new gap."""
    for (system, timeline), some in archive.items():
        size = some[0].segment.size
        needed = [
            one.physical.start.position // size
            for one in starts
            if one.physical and one.physical.system_identifier == system and one.physical.timeline <= timeline
        ]
        seen = next((one.segment.number for one in some if one.modified >= horizon or one.locked), None)
        before = min([*needed, *([] if seen is None else [seen])], default=some[-1].segment.number + 1)
        count = bisect_left(some, before, key=lambda one: one.segment.number)
        yield WalCut(system, timeline, before, count, sum(one.bytes for one in some[:count]), len(some) - count)

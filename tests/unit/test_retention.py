"""Retention over invented years: nights are missed, late, rejected, not proved; the server is taken back in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pgbackup.domain.hold import Hold
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.retention import Physical, Retained, Stored, StoredSegment, months_before, plan_retention
from pgbackup.domain.settings import Retention
from pgbackup.domain.wal import Segment

POLICY = Retention()
SIZE = 1 << 20
ZERO = datetime(2023, 10, 30, 2, tzinfo=UTC)  # then a year of 53 ISO weeks is near, and a leap year
DAY = timedelta(days=1)
QUARTER = timedelta(hours=6)

nights = st.sampled_from([Verdict.VERIFIED] * 6 + [Verdict.REJECTED, None, "missed", "missed"])


def dump(moment: datetime, verdict: Verdict | None = Verdict.VERIFIED, holds: tuple[Hold, ...] = ()) -> Stored:
    return Stored(f"dump_{moment:%Y%m%d_%H%M%S}", Kind.FULL, None, moment, 10, verdict, None, holds)


def hold(with_wal: bool = False, expires_at: datetime | None = None) -> Hold:
    return Hold(backup_id="b", owner="dana", reason="trial", held_at=ZERO, expires_at=expires_at, with_wal=with_wal)


def staying(plan: Retained) -> list[Stored]:
    return [fate.backup for fate in plan.fates if fate.rules]


def rules(plan: Retained, backup: Stored) -> tuple[str, ...]:
    return next(fate.rules for fate in plan.fates if fate.backup == backup)


# -------------------------------------------------------------------------------------------------------- dumps


@given(st.integers(), st.integers(1, 900), st.integers(0, 400), st.booleans())
@settings(max_examples=12, deadline=None)
def test_years_of_nights(seed: int, days: int, offset: int, late: bool) -> None:
    outcomes = Random(seed).choices([Verdict.VERIFIED, Verdict.REJECTED, None, "missed"], [8, 1, 1, 3], k=days)
    start = ZERO + offset * DAY
    every: list[Stored] = []
    kept: list[Stored] = []
    now = start
    for number, outcome in enumerate(outcomes):
        now = start + number * DAY + timedelta(hours=5)
        if outcome != "missed":
            moment = start + number * DAY + (timedelta(hours=number % 4) if late else timedelta(0))
            made = dump(moment, outcome)  # type: ignore[arg-type]
            every.append(made)
            kept.append(made)
        if number % 3 and number < days - 1:
            continue
        kept = staying(plan_retention(kept, (), POLICY, now))
        assert staying(plan_retention(kept, (), POLICY, now)) == kept, "applying twice is applying once"
    proved = [one for one in every if one.verdict is Verdict.VERIFIED]
    if not proved:
        assert len(kept) == len(every)
        return
    newest = proved[-1].moment
    assert {one for one in proved if newest - one.moment <= 30 * DAY} <= set(kept)
    for period, limit in (
        (lambda one: one.moment.isocalendar()[:2], newest - timedelta(weeks=12)),
        (lambda one: (one.moment.year, one.moment.month), months_before(newest, 12)),
        (lambda one: one.moment.year, ZERO),
    ):
        first = {period(one): one.moment for one in reversed(proved)}
        in_range = {name for name, moment in first.items() if moment >= limit}
        assert in_range <= {period(one) for one in kept if one.verdict is Verdict.VERIFIED}
    assert len([one for one in kept if one.verdict is Verdict.VERIFIED]) <= 31 + 13 + 13 + 4


def test_a_dump_says_which_rules_keep_it() -> None:
    every = [dump(ZERO + number * DAY) for number in range(800)]
    now = every[-1].moment + timedelta(hours=5)
    plan = plan_retention(every, (), POLICY, now)
    assert rules(plan, every[-1]) == ("daily", "newest verified")
    assert rules(plan, every[0]) == ("yearly",)
    kept = [fate for fate in plan.fates if fate.rules]
    assert sum("daily" in fate.rules for fate in kept) == 31
    assert sum("weekly" in fate.rules for fate in kept) == 13
    assert sum("monthly" in fate.rules for fate in kept) == 13
    assert {fate.backup.moment.year for fate in kept if "yearly" in fate.rules} == {2023, 2024, 2025, 2026}


@pytest.mark.parametrize("verdict", [None, Verdict.REJECTED])
def test_only_what_is_proved_counts(verdict: Verdict | None) -> None:
    good = dump(ZERO)
    others = [dump(ZERO + number * DAY, verdict) for number in range(1, 400)]
    plan = plan_retention([good, *others], (), POLICY, ZERO + 400 * DAY)
    assert set(rules(plan, good)) == {"daily", "weekly", "monthly", "yearly", "newest verified"}
    assert not plan.going, "nothing that is proved has replaced them"
    newer = dump(ZERO + 400 * DAY)
    plan = plan_retention([good, *others, newer], (), POLICY, ZERO + 400 * DAY)
    assert set(plan.going) == set(others[:-14]) | (set() if rules(plan, good) else {good})
    assert rules(plan, good) == ("yearly",)


@given(st.integers(0, 5000))
def test_a_wrong_clock_deletes_nothing(days: int) -> None:
    every = [dump(ZERO + number * DAY) for number in range(30)]
    assert not plan_retention(every, (), POLICY, every[-1].moment + days * DAY).going


def test_a_hold_keeps_and_says_who() -> None:
    old = dump(ZERO + DAY, holds=(hold(),))
    plan = plan_retention([dump(ZERO), old, dump(ZERO + 700 * DAY)], (), POLICY, ZERO + 700 * DAY)
    assert rules(plan, old) == ("held by dana until it is released: trial",)


# ------------------------------------------------------------------------------------------ the physical chain


@dataclass
class World:
    """A cluster's life: the WAL grows by one segment a quarter of a day; ``branches`` by timeline, (parent, number)."""

    timeline: int = 1
    number: int = 0
    branches: dict[int, tuple[int, int]] = field(default_factory=dict)
    segments: dict[tuple[int, int], StoredSegment] = field(default_factory=dict)
    lived: list[tuple[datetime, int, int]] = field(default_factory=list)
    backups: dict[str, Stored] = field(default_factory=dict)

    def live(self, now: datetime) -> None:
        """A quarter of a day passes, to its end ``now``."""
        segment = Segment(self.timeline, self.number, SIZE)
        self.segments[self.timeline, self.number] = StoredSegment("7", segment, 5, now)
        self.lived.append((now, self.timeline, self.number))
        self.number += 1

    def back_up(self, now: datetime, verdict: Verdict | None, parent: str | None) -> str:
        position = Lsn(self.number * SIZE + 100), Lsn(self.number * SIZE + 200)
        kind = Kind.INCREMENTAL if parent else Kind.BASE
        name = f"{kind}_{now:%Y%m%d_%H}"
        if parent and self.backups[parent].verdict is Verdict.REJECTED:
            verdict = Verdict.REJECTED
        physical = Physical("7", self.timeline, *position)
        self.backups[name] = Stored(name, kind, parent, now, 100, verdict, physical)
        return name

    def go_back(self, quarters: int) -> None:
        """Recover to an earlier moment of the present timeline's way; a new timeline begins in its segment."""
        _, timeline, number = self.lived[-quarters]
        new = max([1, *self.branches]) + 1
        self.branches[new] = (timeline, number)
        self.timeline, self.number = new, number

    def way(self, timeline: int, number: int) -> list[tuple[int, int]]:
        """Every segment on the way to one, that one included."""
        if timeline not in self.branches:
            return [(timeline, one) for one in range(number + 1)]
        parent, begin = self.branches[timeline]
        before = [one for one in self.way(parent, begin) if one[1] < begin]
        return before + [(timeline, one) for one in range(begin, number + 1)]

    def reaches(
        self, base: Stored, moment: datetime, timeline: int, number: int, held: Iterable[tuple[int, int]]
    ) -> bool:
        physical = base.physical
        assert physical is not None
        way = self.way(timeline, number)
        first = physical.start.position // SIZE
        lies_on = (physical.timeline, first) in way
        return lies_on and base.moment <= moment and {one for one in way if one[1] >= first} <= set(held)


@given(st.data())
@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_moment_of_the_window_is_reached(data: st.DataObject) -> None:
    world = World()
    stored: dict[str, Stored] = {}
    archive: dict[tuple[int, int], StoredSegment] = {}
    chain: str | None = None
    days = data.draw(st.integers(1, 60))
    now = ZERO
    for number in range(days):
        night = data.draw(nights)
        for quarter in range(4):
            now = ZERO + number * DAY + quarter * QUARTER
            made = None
            if quarter == 0 and night != "missed":
                made = chain = world.back_up(now, night, None)  # type: ignore[arg-type]
            elif quarter and chain and data.draw(st.booleans()):
                made = chain = world.back_up(now, data.draw(st.sampled_from([Verdict.VERIFIED, None])), chain)
            if made:
                stored[made] = world.backups[made]
            world.live(now + QUARTER)
            archive[world.timeline, world.number - 1] = world.segments[world.timeline, world.number - 1]
        now += QUARTER
        if data.draw(st.integers(0, 3)):
            before = set(archive)
            _rotate(stored, archive, now)
            _no_new_gap(before, set(archive))
            _same_again(stored, archive, now)
            _window_is_reached(world, stored, archive, now)
        if data.draw(st.integers(0, 9)) == 0:
            world.go_back(data.draw(st.integers(1, min(len(world.lived), 40))))
            chain = None


def _rotate(stored: dict[str, Stored], archive: dict[tuple[int, int], StoredSegment], now: datetime) -> None:
    plan = plan_retention(list(stored.values()), archive.values(), POLICY, now)
    for gone in plan.going:
        del stored[gone.id]
    for cut in plan.cuts:
        for key in [key for key in archive if key[0] == cut.timeline and key[1] < cut.before]:
            del archive[key]
    for one in stored.values():
        assert one.parent is None or one.parent in stored, "what something stands on stays"


def _no_new_gap(before: set[tuple[int, int]], after: set[tuple[int, int]]) -> None:
    for timeline in {one[0] for one in after}:
        first = min(number for line, number in after if line == timeline)
        assert {one for one in before if one[0] == timeline and one[1] >= first} <= after


def _same_again(stored: dict[str, Stored], archive: dict[tuple[int, int], StoredSegment], now: datetime) -> None:
    plan = plan_retention(list(stored.values()), archive.values(), POLICY, now)
    assert not plan.going
    assert not any(cut.count for cut in plan.cuts)


def _window_is_reached(
    world: World, stored: dict[str, Stored], archive: dict[tuple[int, int], StoredSegment], now: datetime
) -> None:
    proved = [one for one in world.backups.values() if one.verdict is Verdict.VERIFIED and one.kind is Kind.BASE]
    left = [one for one in proved if one.id in stored]
    for moment, timeline, number in world.lived:
        if now - moment > POLICY.window:
            continue
        if any(world.reaches(one, moment, timeline, number, world.segments) for one in proved):
            assert any(world.reaches(one, moment, timeline, number, archive) for one in left), f"{moment} is lost"


@given(st.data())
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_region_alone_loses_no_moment_that_it_could_reach(data: st.DataObject) -> None:
    """Copies come late, some never; what is there counts from when it came."""
    world = World()
    stored: dict[str, Stored] = {}
    archive: dict[tuple[int, int], StoredSegment] = {}
    on_the_way: list[str] = []
    copied = 0
    chain: str | None = None
    for number in range(data.draw(st.integers(15, 60))):
        night = data.draw(nights)
        for quarter in range(4):
            now = ZERO + number * DAY + quarter * QUARTER
            if quarter == 0 and night != "missed":
                chain = world.back_up(now, night, None)  # type: ignore[arg-type]
            elif quarter and chain and data.draw(st.booleans()):
                chain = world.back_up(now, Verdict.VERIFIED, chain)
            if chain and chain not in stored and chain not in on_the_way and data.draw(st.integers(0, 9)):
                on_the_way.append(chain)
            world.live(now + QUARTER)
        now = ZERO + (number + 1) * DAY
        if data.draw(st.integers(0, 2)):  # else the region is down
            for name in on_the_way[: (arrived := data.draw(st.integers(0, len(on_the_way))))]:
                stored[name] = world.backups[name]
            del on_the_way[:arrived]
            for key in list(world.segments)[copied:]:
                archive[key] = dataclasses.replace(world.segments[key], modified=now)
            copied = len(world.segments)
        before = _reachable(world, stored, archive, now)
        _rotate_region(stored, archive, now)
        assert before <= _reachable(world, stored, archive, now)
        if data.draw(st.integers(0, 12)) == 0:
            world.go_back(data.draw(st.integers(1, min(len(world.lived), 40))))
            chain = None


def _rotate_region(stored: dict[str, Stored], archive: dict[tuple[int, int], StoredSegment], now: datetime) -> None:
    """Rotate, where a parent may not have arrived."""
    kept, wal = dict(stored), dict(archive)
    plan = plan_retention(list(stored.values()), archive.values(), POLICY, now)
    newest = max(
        (one for one in stored.values() if one.verdict is Verdict.VERIFIED), key=lambda one: one.moment, default=None
    )
    for gone in plan.going:
        del stored[gone.id]
    for cut in plan.cuts:
        for key in [key for key in archive if key[0] == cut.timeline and key[1] < cut.before]:
            del archive[key]
    assert all(one.parent in stored for one in stored.values() if one.parent in kept), "what something stands on stays"
    while newest is not None:
        assert newest.id in stored, "the newest verified chain stays"
        newest = kept.get(newest.parent or "")
    _no_new_gap(set(wal), set(archive))
    _same_again(stored, archive, now)


def _reachable(
    world: World, stored: dict[str, Stored], archive: dict[tuple[int, int], StoredSegment], now: datetime
) -> set[tuple[datetime, int, int]]:
    bases = [one for one in stored.values() if one.verdict is Verdict.VERIFIED and one.kind is Kind.BASE]
    return {
        (moment, timeline, number)
        for moment, timeline, number in world.lived
        if now - moment <= POLICY.window and any(world.reaches(one, moment, timeline, number, archive) for one in bases)
    }


def physical(moment: datetime, number: int, **changes: object) -> Stored:
    base = Stored(
        f"base_{moment:%Y%m%d}",
        Kind.BASE,
        None,
        moment,
        100,
        Verdict.VERIFIED,
        Physical("7", 1, Lsn(number * SIZE), Lsn(number * SIZE + 1)),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def archived(days: Sequence[int]) -> list[StoredSegment]:
    return [StoredSegment("7", Segment(1, day, SIZE), 5, ZERO + (day + 1) * DAY) for day in days]


def test_the_window_and_the_newest_base_before_it() -> None:
    bases = [physical(ZERO + day * DAY, day) for day in range(40)]
    plan = plan_retention(bases, archived(range(40)), POLICY, ZERO + 39 * DAY)
    assert [one.moment for one in plan.going] == [ZERO + day * DAY for day in range(23, -1, -1)]
    assert [(cut.before, cut.count, cut.kept) for cut in plan.cuts] == [(24, 24, 16)]


def test_a_base_held_longer_keeps_only_its_own_wal_unless_a_recovery_holds_it() -> None:
    bases = [physical(ZERO + day * DAY, day) for day in range(40)]
    for with_wal, before in ((False, 24), (True, 3)):
        bases[3] = dataclasses.replace(bases[3], holds=(hold(with_wal),))
        plan = plan_retention(bases, archived(range(40)), POLICY, ZERO + 39 * DAY)
        assert bases[3] not in plan.going
        assert [cut.before for cut in plan.cuts] == [before]


def test_what_a_kept_incremental_stands_on_stays() -> None:
    bases = [physical(ZERO + day * DAY, day) for day in range(40)]
    one = physical(ZERO + DAY, 1, id="i1", kind=Kind.INCREMENTAL, parent=bases[1].id)
    two = physical(ZERO + DAY, 1, id="i2", kind=Kind.INCREMENTAL, parent="i1", holds=(hold(),))
    plan = plan_retention([*bases, one, two], (), POLICY, ZERO + 39 * DAY)
    assert rules(plan, one) == ("i2 stands on it",)
    assert rules(plan, bases[1]) == ("i1 stands on it",)


def test_another_system_goes_when_the_window_has_left_it() -> None:
    old = [physical(ZERO + day * DAY, day) for day in range(10)]
    new = [
        physical(ZERO + day * DAY, day, id=f"new{day}", physical=Physical("8", 1, Lsn(day * SIZE), Lsn(day * SIZE + 1)))
        for day in range(10, 60)
    ]
    plan = plan_retention([*old, *new], archived(range(10)), POLICY, ZERO + 60 * DAY)
    assert set(old) <= set(plan.going)
    assert [cut.kept for cut in plan.cuts] == [0]
    during = plan_retention([*old, *new[:10]], archived(range(10)), POLICY, ZERO + 20 * DAY)
    assert old[9] not in during.going
    assert old[0] in during.going


def test_nothing_proved_nothing_goes() -> None:
    bases = [physical(ZERO + day * DAY, day, verdict=None) for day in range(100)]
    plan = plan_retention(bases, archived(range(100)), POLICY, ZERO + 100 * DAY)
    assert not plan.going
    assert [cut.count for cut in plan.cuts] == [0]


@given(st.integers(0, 5000))
def test_a_wrong_clock_cuts_no_wal(days: int) -> None:
    bases = [physical(ZERO + day * DAY, day) for day in range(40)]
    unproved = [physical(ZERO + day * DAY, day, id=f"u{day}", verdict=verdict)
                for day, verdict in ((30, None), (31, Verdict.REJECTED))]  # fmt: skip
    now = ZERO + 39 * DAY
    assert plan_retention([*bases, *unproved], archived(range(40)), POLICY, now + days * DAY) == plan_retention(
        [*bases, *unproved], archived(range(40)), POLICY, now
    )


@given(st.sampled_from(["America/New_York", "Pacific/Kiritimati", "Europe/Berlin"]), st.integers(0, 3))
def test_a_time_zone_and_its_clock_changes_change_nothing(zone: str, hour: int) -> None:
    moments = [ZERO + number * DAY + timedelta(hours=hour) for number in range(400)]
    here = [dump(moment) for moment in moments]
    there = [dataclasses.replace(one, moment=one.moment.astimezone(ZoneInfo(zone))) for one in here]
    now = moments[-1] + QUARTER
    one, other = (
        plan_retention(here, (), POLICY, now),
        plan_retention(there, (), POLICY, now.astimezone(ZoneInfo(zone))),
    )
    assert [fate.rules for fate in one.fates] == [fate.rules for fate in other.fates]


@given(st.data())
@settings(max_examples=40)
def test_what_is_damaged_counts_for_nothing_and_stays_as_long_as_it_would(data: st.DataObject) -> None:
    days = data.draw(st.lists(st.integers(0, 120), min_size=1, max_size=25, unique=True))
    whole = [physical(ZERO + day * DAY, day) for day in days] + [dump(ZERO + day * DAY) for day in days]
    harmed = data.draw(st.sets(st.sampled_from(range(len(whole)))))
    mixed = [dataclasses.replace(one, damage="cut") if index in harmed else one for index, one in enumerate(whole)]
    sound = [one for one in mixed if not one.damage]
    now = ZERO + 121 * DAY
    plan, alone = (plan_retention(some, archived(range(121)), POLICY, now) for some in (mixed, sound))
    as_if = {fate.backup.id: fate.rules for fate in plan_retention(whole, (), POLICY, now).fates}
    assert [fate for fate in plan.fates if not fate.backup.damage] == list(alone.fates)
    assert {fate.backup.id for fate in plan.fates if fate.backup.damage and fate.rules} == {
        one.id for one in mixed if one.damage and as_if[one.id]
    }
    assert plan.cuts[0].before <= alone.cuts[0].before


def test_what_the_storage_locks_or_nobody_can_read_stays() -> None:
    bases = [physical(ZERO + day * DAY, day) for day in range(40)]
    unread = physical(ZERO, 0, id="unread", physical=None, verdict=None, parent=bases[2].id, reasons=("left alone",))
    bases[3] = dataclasses.replace(bases[3], reasons=("locked",))
    some = archived(range(40))
    some[7] = dataclasses.replace(some[7], locked=True)
    plan = plan_retention([*bases, unread], some, POLICY, ZERO + 39 * DAY)
    assert [rules(plan, one) for one in (unread, bases[2], bases[3])] == [
        ("left alone",), ("unread stands on it",), ("locked",),
    ]  # fmt: skip
    assert [(cut.before, cut.count) for cut in plan.cuts] == [(7, 7)]

"""The recovery plan, against invented histories: what it stages is enough, what it refuses cannot be done."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.history import SEGMENTS, SIZE, Commit, History, clock, histories

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Verdict
from pgbackup.domain.rates import Rates
from pgbackup.domain.recovery import RecoveryPlan, plan_recovery
from pgbackup.domain.survey import Link, survey
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target, parse_target

# Everything costs, so that no way is the best one by accident.
RATES = Rates(fetch=40, unpack=70, combine=60, stage=30, replay=20, start=1)
END = SIZE * SEGMENTS

positions = st.integers(0, END + SIZE)
targets: st.SearchStrategy[Target] = st.one_of(
    st.just(Latest()),
    positions.map(lambda position: AtTime(clock(position))),
    positions.map(lambda position: AtLsn(Lsn(position))),
    st.integers(900, 4500).map(lambda number: AtXid((2**32 + number) % 2**32)),
    st.sampled_from(["before", "after", "never"]).map(AtName),
)


def planned(history: History, target: Target, links: tuple[Link, ...] | None = None) -> RecoveryPlan | None:
    try:
        return plan_recovery(history.holdings(links), target, rates=RATES)
    except RefusedError:
        return None


def by_id(history: History, name: str | None) -> Link | None:
    return next((link for link in history.links if link.id == name), None)


def rejected(history: History, link: Link | None) -> bool:
    return link is not None and (link.verdict is Verdict.REJECTED or rejected(history, by_id(history, link.parent)))


def newest(history: History) -> int:
    return max([*history.origins, *(link.timeline for link in history.links), *(one for one, _ in history.archive)])


def held(history: History, last: Link) -> set[tuple[int, int]]:
    """Every segment that a recovery from a link could get hold of."""
    bundles = [link for link in history.links if link.method == "wal" and not rejected(history, link)]
    files = set(history.archive)
    for link in [last, *bundles]:
        files |= {
            (link.timeline, number) for number in range(link.start.position // SIZE, -(-link.end.position // SIZE))
        }
    return files


def usable(history: History, link: Link) -> tuple[Link, ...] | None:
    """The chain of a link from which the newest timeline can be reached."""
    chain = [link]
    while chain[0].parent is not None:
        parent = by_id(history, chain[0].parent)
        if parent is None:
            return None
        chain.insert(0, parent)
    lefts = {switch.timeline: switch.position for switch in history.switches(newest(history))}
    on_the_way = all(
        one.timeline == newest(history) or (one.timeline in lefts and one.stop <= lefts[one.timeline]) for one in chain
    )
    return tuple(chain) if on_the_way and link.method != "wal" and not rejected(history, link) else None


def reach(history: History, link: Link) -> int:
    """The first segment that is missing behind a link's start, one by one."""
    number = link.start.position // SIZE
    while (history.timeline_of(number, newest(history)), number) in held(history, link):
        number += 1
    return number


def ways(history: History) -> list[tuple[Link, int]]:
    """Links to start from, with the end of their WAL."""
    found = [(link, reach(history, link) * SIZE) for link in history.links if usable(history, link)]
    return [(link, end) for link, end in found if end >= link.stop.position]


def last_known(history: History) -> int:
    """The end of all the WAL on the way to the newest timeline, gaps or not."""
    files = set(history.archive)
    for link in history.links:
        if (link.method == "wal" and not rejected(history, link)) or any(link is way for way, _ in ways(history)):
            files |= held(history, link) if link.method != "wal" else set()
    for link in history.links:
        if link.method == "wal" and not rejected(history, link):
            files |= {(link.timeline, n) for n in range(link.start.position // SIZE, -(-link.end.position // SIZE))}
    wanted = [number for one, number in files if history.timeline_of(number, newest(history)) == one]
    return (max(wanted) + 1) * SIZE if wanted else 0


@settings(max_examples=100)
@given(history=histories(), target=targets)
def test_a_plan_gets_there(history: History, target: Target) -> None:
    plan = planned(history, target)
    assume(plan is not None)
    assert plan is not None
    chain = [by_id(history, name) for name in plan.chain]
    last = chain[-1]
    assert last is not None
    assert usable(history, last) == tuple(chain)
    files = [(one.timeline, one.start.position + step) for one in plan.wal for step in range(0, length(one), SIZE)]
    numbers = [position // SIZE for _, position in files]
    assert numbers == list(range(last.start.position // SIZE, numbers[-1] + 1)), "continuous from where replay begins"
    assert all(
        history.timeline_of(number, newest(history)) == one for (one, _), number in zip(files, numbers, strict=True)
    )
    assert {(one, position // SIZE) for one, position in files} <= named(history, plan, last)
    check_target(history, target, plan, last, (numbers[-1] + 1) * SIZE)


def length(stretch: object) -> int:
    return stretch.end.position - stretch.start.position  # type: ignore[attr-defined, no-any-return]


def named(history: History, plan: RecoveryPlan, last: Link) -> set[tuple[int, int]]:
    """The segments that a plan says where to get."""
    bundles = [by_id(history, name) for name in plan.bundles]
    assert not any(rejected(history, link) for link in bundles)
    files = {
        (one.timeline, (one.start.position + step) // SIZE)
        for one in plan.archived
        for step in range(0, length(one), SIZE)
    }
    assert files <= history.archive
    for link in [last, *bundles]:
        assert link is not None
        files |= {
            (link.timeline, number) for number in range(link.start.position // SIZE, -(-link.end.position // SIZE))
        }
    return files


def check_target(history: History, target: Target, plan: RecoveryPlan, last: Link, end: int) -> None:
    """Replay what was staged, and see that it stops where it should."""
    replayed = [one for one in history.story(newest(history)) if last.start.position <= one.position < end]
    assert end >= last.stop.position
    stop = plan.stop
    if isinstance(target, Latest):
        assert end == last_known(history)
    elif isinstance(stop, AtTime):
        later = [one for one in replayed if one.stamp > stop.moment]
        assert all(one.position >= last.stop.position for one in later), "not before it is consistent"
        assert later or plan.at_end
    elif isinstance(stop, AtLsn):
        assert last.stop <= stop.lsn <= Lsn(end)
    elif isinstance(stop, AtXid):
        ends = [one for one in history.story(newest(history)) if one.xid == stop.xid]
        within = [one for one in ends if last.start.position <= one.position < reach(history, last) * SIZE]
        assert all(last.stop.position <= one.position < end for one in within)
    if isinstance(target, AtName) and isinstance(stop, AtLsn):
        assert any(Lsn(one.position) == stop.lsn and one.point == target.name for one in history.story(newest(history)))


@settings(max_examples=100)
@given(history=histories(), target=targets)
def test_what_can_be_done_is_planned(history: History, target: Target) -> None:
    """Brute force: whatever link, with all WAL that there is."""
    possible = False
    for link, end in ways(history):
        replayed = [one for one in history.story(newest(history)) if link.stop.position <= one.position < end]
        if isinstance(target, Latest):
            possible |= end == last_known(history)
        elif isinstance(target, AtLsn):
            possible |= link.stop.position <= target.lsn.position <= end
        elif isinstance(target, AtTime):
            possible |= link.moment <= target.moment and any(
                one.stamp > target.moment and known(history, one) for one in replayed
            )
        elif isinstance(target, AtXid):
            possible |= any(one.xid == target.xid for one in replayed) and link.next_xid <= target.xid
        else:
            points = [
                one.position
                for one in history.story(newest(history))
                if one.point == target.name and known(history, one)
            ]
            possible |= bool(points) and link.stop.position <= max(points) <= end
    if possible:
        assert planned(history, target) is not None
    elif isinstance(target, Latest | AtLsn):
        assert planned(history, target) is None


def known(history: History, commit: Commit) -> bool:
    """A sidecar tells of it."""
    number = commit.position // SIZE
    place = history.timeline_of(number, newest(history)), number
    return place in history.archive - history.unknown


@settings(max_examples=100)
@given(history=histories(), target=targets)
def test_no_other_chain_is_quicker_or_better_proved(history: History, target: Target) -> None:
    plan = planned(history, target)
    assume(plan is not None)
    assert plan is not None
    for link in history.links:
        chain = usable(history, link)
        others = {one.id for one in chain or ()} | {one.id for one in history.links if one.method == "wal"}
        if chain is None or isinstance(target, Latest):  # what the latest is, all links say together
            continue
        alone = planned(
            history, target, tuple(one for one in history.links if one.id in others or rejected(history, one))
        )
        if alone is not None and alone.chain == tuple(one.id for one in chain) and alone.timeline == plan.timeline:
            assert rank(history, plan) <= rank(history, alone)


def rank(history: History, plan: RecoveryPlan) -> tuple[bool, float]:
    links = [by_id(history, name) for name in plan.chain]
    return any(link is None or link.verdict is not Verdict.VERIFIED for link in links), plan.seconds


@settings(max_examples=60)
@given(history=histories(), share=st.floats(0, 1))
def test_a_target_inside_a_window_is_never_refused(history: History, share: float) -> None:
    try:
        windows = survey(history.holdings(), None).windows.values()
    except RefusedError:
        assume(False)
        return
    assert windows
    for window in windows:
        moment = window.earliest + share * (window.latest - window.earliest)
        assert planned(history, AtTime(moment)) is not None
        lsn = window.start.plus(int(share * (window.end.position - window.start.position)))
        assert planned(history, AtLsn(lsn)) is not None
    for moment in outside([(window.earliest, window.latest) for window in windows]):
        assert planned(history, AtTime(moment)) is None


def outside(edges: list[tuple[datetime, datetime]]) -> list[datetime]:
    second = timedelta(seconds=1)
    near = [moment for start, end in edges for moment in (start - second, end + second)]
    return [moment for moment in near if not any(start <= moment <= end for start, end in edges)]


def link(name: str = "base", position: int = 110, **changes: object) -> Link:
    """A base that is consistent at ``position`` and has its own WAL to the end of that segment."""
    plain = Link(
        id=name,
        method=None,
        parent=None,
        timeline=1,
        start=Lsn(position - 5),
        stop=Lsn(position),
        end=Lsn(position + 1),
        moment=clock(position),
        next_xid=100,
        stored_bytes=1000,
        data_bytes=3000,
        unlogged_tables=("shop.public.basket",),
        verdict=Verdict.VERIFIED,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def story(*links: Link, holes: tuple[int, ...] = (), origins: dict[int, tuple[int, int]] | None = None) -> History:
    """Ten segments on timeline 1, five on each later one, a commit every 20 positions."""
    branches = origins or {}
    commits = {
        timeline: tuple(Commit(at, clock(at), 100 + at // 20) for at in range(10, 1500, 20))
        for timeline in (1, *branches)
    }
    archive = {(1, number) for number in range(10) if number not in holes}
    for timeline, (_, position) in branches.items():
        archive |= {(timeline, number) for number in range(position // SIZE, position // SIZE + 5)}
    return History(branches, commits, links, frozenset(archive), frozenset())


REJECTED = link(verdict=Verdict.REJECTED)
REFUSALS: list[tuple[History, Target, int | None, str]] = [
    (story(), Latest(), None, "holds no physical backup"),
    (story(REJECTED), Latest(), None, "rejected"),
    (story(REJECTED, link("child", 210, method="block", parent="base")), Latest(), None, "rejected"),
    (story(link("child", 210, method="block", parent="gone")), Latest(), None, "gone"),
    (story(link()), AtTime(clock(100)), None, "before the end of the first backup"),
    (story(link()), AtLsn(Lsn(109)), None, "before the end of the first backup"),
    (story(link()), AtTime(clock(991)), None, "behind the last WAL"),
    (story(link()), AtLsn(Lsn(1001)), None, "behind the last WAL"),
    (story(link(), holes=(4,)), AtTime(clock(450)), None, "behind the last WAL"),
    (story(link(), holes=(4,)), AtTime(clock(450)), None, "000000010000000000000004 is missing"),
    (story(link(), holes=(4,)), Latest(), None, "gap"),
    (story(link(), link("late", 610), holes=(4,)), AtTime(clock(550)), None, "in a gap"),
    (story(link(), link("late", 610), holes=(4,)), AtLsn(Lsn(550)), None, "in a gap"),
    (story(link(position=610), origins={2: (1, 450)}), Latest(), 2, "on another branch"),
    (story(link()), Latest(), 7, "nothing is known of timeline 7"),
    (story(link()), AtXid(400), None, "not in the WAL"),
    (story(link()), AtXid(99), None, "not in the WAL"),
    (story(link()), AtName("never"), None, "not in the WAL"),
]


@pytest.mark.parametrize(("history", "target", "timeline", "reason"), REFUSALS)
def test_a_refusal_says_why_and_what_can_be_done(
    history: History, target: Target, timeline: int | None, reason: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        plan_recovery(history.holdings(), target, timeline)
    assert reason in f"{refused.value.message} {refused.value.detail}"
    assert refused.value.hint


def test_the_newest_timeline_is_followed_and_another_one_can_be_asked_for() -> None:
    history = story(link(), origins={2: (1, 450)})
    followed = plan_recovery(history.holdings(), Latest())
    assert [(one.timeline, one.start.position, one.end.position) for one in followed.wal] == [
        (1, 100, 400),
        (2, 400, 900),
    ]
    assert followed.timeline == 2
    other = plan_recovery(history.holdings(), Latest(), 1)
    assert [(one.timeline, one.start.position, one.end.position) for one in other.wal] == [(1, 100, 1000)]
    before = plan_recovery(history.holdings(), AtLsn(Lsn(250)))
    assert (before.timeline, before.wal[-1].end, before.at_end) == (1, Lsn(400), False), "and the segment behind it"
    border = plan_recovery(history.holdings(), AtLsn(Lsn(400)))
    assert (border.timeline, border.wal[-1].end, border.at_end) == (1, Lsn(400), True)


def test_a_timelines_file_from_before_its_beginning_does_not_count() -> None:
    history = story(link(), holes=(3,), origins={2: (1, 450)})
    strange = dataclasses.replace(history, archive=history.archive | {(2, 3)})
    with pytest.raises(RefusedError):
        plan_recovery(strange.holdings(), Latest())


def test_a_target_before_the_gap_is_not_refused_for_what_is_behind() -> None:
    plan = plan_recovery(story(link(), holes=(4,)).holdings(), AtTime(clock(350)))
    assert plan.wal[-1].end == Lsn(400)


def test_blocks_are_combined_instead_of_replaying() -> None:
    child = link("child", 810, method="block", parent="base", stored_bytes=10, data_bytes=30)
    rates = Rates(replay=10)
    assert plan_recovery(story(link(), child).holdings(), Latest(), rates=rates).chain == ("base", "child")
    assert plan_recovery(story(link(), child).holdings(), Latest(), rates=Rates(fetch=1)).chain == ("base",)


def test_a_bundle_fills_what_the_archive_lost() -> None:
    bundle = link("bundle", 200, method="wal", parent="base", start=Lsn(200), stop=Lsn(200), end=Lsn(501))
    shorter = dataclasses.replace(bundle, id="shorter", end=Lsn(300))
    plan = plan_recovery(story(link(), shorter, bundle, holes=(2, 3)).holdings(), Latest())
    assert plan.bundles == ("bundle",)
    assert [(one.start.position, one.end.position) for one in plan.archived] == [(400, 1000)]
    assert plan_recovery(story(link(), bundle).holdings(), Latest()).bundles == ()


def test_what_is_lost_and_what_to_know_is_said() -> None:
    plan = plan_recovery(story(link(verdict=None)).holdings(), AtTime(clock(900)))
    assert plan.loses == timedelta(seconds=90)
    assert "not verified: base" in plan.warnings
    assert any("shop.public.basket" in warning for warning in plan.warnings)


def test_a_moment_is_found_in_a_large_archive_by_a_few_sidecars() -> None:
    last = 30_000
    commits = tuple(Commit(number * SIZE + 50, clock(number * SIZE + 50), number) for number in range(last))
    archive = frozenset((1, number) for number in range(last))

    class Large(History):
        def story(self, _timeline: int) -> tuple[Commit, ...]:
            return (commits[self.reads[-1].number],)

    for unknown in (frozenset(), archive):
        history = Large({}, {}, (link(),), archive, unknown)
        plan = plan_recovery(history.holdings(), AtTime(clock(2_000_000)))
        assert plan.wal[-1].end >= Lsn(2_000_000)
        assert len(history.reads) < 100


@pytest.mark.parametrize(
    "text", ["2026-01-31T02:00:00Z", "2026-01-31 02:00:00 UTC", "2026-01-31 04:00:00+02:00", "20260131T020000Z"]
)
def test_a_moment_needs_its_time_zone(text: str) -> None:
    assert parse_target(text) == AtTime(datetime(2026, 1, 31, 2, tzinfo=UTC))
    with pytest.raises(ConfigurationError, match="time zone"):
        parse_target("2026-01-31 02:00:00")


def test_a_target_is_one_target() -> None:
    assert parse_target(lsn="0/10") == AtLsn(Lsn(16))
    assert parse_target(xid=7) == AtXid(7)
    assert parse_target(name="latest") == AtName("latest")
    for wrong in ({}, {"to": "latest", "xid": 7}, {"to": "yesterday"}, {"lsn": "7"}):
        with pytest.raises(ConfigurationError):
            parse_target(**wrong)  # type: ignore[arg-type]


def test_no_more_is_staged_than_the_target_needs() -> None:
    assert plan_recovery(story(link()).holdings(), AtTime(clock(350))).wal[-1].end == Lsn(500), (
        "370 is later, and one more"
    )


def test_bundles_follow_one_another() -> None:
    bundles = [
        link(f"bundle{at}", at, method="wal", parent="base", start=Lsn(at), stop=Lsn(at), end=Lsn(at + size))
        for at, size in ((200, 150), (400, 50))
    ]
    plan = plan_recovery(story(link(), *bundles, holes=(2, 3, 4)).holdings(), Latest())
    assert plan.bundles == ("bundle200", "bundle400")


@pytest.mark.parametrize("places", [(250, 650), (620, 650)])
def test_the_newest_restore_point_of_a_name_is_meant(places: tuple[int, int]) -> None:
    history = story(link(), link("late", 610), holes=(4,))
    named = tuple(Commit(at, clock(at), 100, "twice") for at in places)
    history = dataclasses.replace(history, commits={1: named})
    assert plan_recovery(history.holdings(), AtName("twice")).stop == AtLsn(Lsn(650))


def test_where_nobody_knows_the_restore_points_the_server_has_to_look() -> None:
    history = dataclasses.replace(story(link()), unknown=frozenset({(1, 7)}))
    plan = plan_recovery(history.holdings(), AtName("unheard of"))
    assert (plan.stop, plan.wal[-1].end, plan.at_end) == (AtName("unheard of"), Lsn(900), False)

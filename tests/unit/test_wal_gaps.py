"""What is missing in an archive, told from the stretches that are there."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from tests.support import history as invented
from tests.support.history import History, histories

from pgbackup.domain.wal import Gap, Segment, gaps, stretches

SIZE = 1 << 24


def segments(timeline: int, numbers: Iterable[int]) -> set[Segment]:
    return {Segment(timeline, number, SIZE) for number in numbers}


def missing(*found: set[Segment]) -> tuple[Gap, ...]:
    return gaps(stretches(set().union(*found)), {})


@given(first=st.integers(0, 50), numbers=st.sets(st.integers(0, 60), min_size=1))
def test_on_one_timeline_every_hole_is_a_gap(first: int, numbers: set[int]) -> None:
    kept = {number + first for number in numbers}
    holes = sum(1 for number in kept if number != min(kept) and number - 1 not in kept)
    assert len(missing(segments(3, kept))) == holes


@given(switch=st.integers(2, 20), more=st.integers(0, 5), after=st.integers(1, 5), lost=st.integers(0, 3))
def test_a_timeline_has_to_begin_where_an_older_one_reaches(switch: int, more: int, after: int, lost: int) -> None:
    """The older one may have gone on behind the switch (``more``); segments before it may be missing (``lost``)."""
    older = segments(1, range(1, switch + more)) if not lost else segments(1, range(max(switch - lost, 1)))
    newer = segments(2, range(switch, switch + after))
    assert bool(missing(older, newer)) == bool(lost)


def test_what_retention_removed_from_the_beginning_is_no_gap() -> None:
    assert missing(segments(2, range(7, 9))) == ()
    assert missing(segments(1, range(5, 6)), segments(2, range(6, 9))) == ()


def test_an_older_timeline_that_went_on_hides_no_hole_of_the_newer_one() -> None:
    [gap] = missing(segments(1, range(1, 20)), segments(2, [5, 6, 9]))
    assert (gap.timeline, gap.start.position // SIZE, gap.end.position // SIZE) == (2, 7, 9)


@given(history=histories())
def test_by_the_histories_a_gap_is_what_a_server_would_ask_for_in_vain(history: History) -> None:
    holdings = history.holdings()
    found = [
        set(range(gap.start.position // invented.SIZE, -(-gap.end.position // invented.SIZE)))
        for gap in gaps(holdings.stretches, holdings.histories)
    ]
    ways = []
    for timeline in [1, *history.origins]:
        way = {number: (history.timeline_of(number, timeline), number) for number in range(invented.SEGMENTS)}
        held = [number for number, segment in way.items() if segment in history.archive]
        lost = {number for number, segment in way.items() if segment not in history.archive}
        ways.append(lost)
        if any(segment == (timeline, number) for number, segment in way.items() if number in held):
            between = {number for number in lost if min(held) < number < max(held)}
            assert between <= set().union(*found)
    for numbers in found:
        assert any(numbers <= lost for lost in ways), numbers

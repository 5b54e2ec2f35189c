"""What is missing in an archive, told from the stretches that are there."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.wal import Segment, stretches
from pgbackup.wal.status import gaps

SIZE = 1 << 24


def segments(timeline: int, numbers: Iterable[int]) -> set[Segment]:
    return {Segment(timeline, number, SIZE) for number in numbers}


@given(first=st.integers(0, 50), numbers=st.sets(st.integers(0, 60), min_size=1))
def test_on_one_timeline_every_hole_is_a_gap(first: int, numbers: set[int]) -> None:
    kept = {number + first for number in numbers}
    holes = sum(1 for number in kept if number != min(kept) and number - 1 not in kept)
    assert len(gaps(stretches(segments(3, kept)))) == holes


@given(switch=st.integers(2, 20), more=st.integers(0, 5), after=st.integers(1, 5), lost=st.integers(0, 3))
def test_a_timeline_has_to_begin_where_an_older_one_reaches(switch: int, more: int, after: int, lost: int) -> None:
    """The older one may have gone on behind the switch (``more``); segments before it may be missing (``lost``)."""
    older = segments(1, range(1, switch + more)) if not lost else segments(1, range(max(switch - lost, 1)))
    newer = segments(2, range(switch, switch + after))
    found = gaps(stretches(older | newer))
    assert bool(found) == bool(lost)


def test_what_retention_removed_from_the_beginning_is_no_gap() -> None:
    assert gaps(stretches(segments(2, range(7, 9)))) == ()
    assert gaps(stretches(segments(1, range(5, 6)) | segments(2, range(6, 9)))) == ()

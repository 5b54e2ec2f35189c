"""What is usual for a backup's size: told when it matters, silent when it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.usual import Captured, Size, usual

MONDAY = datetime(2026, 2, 2, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
GB = 1 << 30
SIZES = st.integers(min_value=1, max_value=1 << 50)
LIMITS = st.tuples(st.floats(0.01, 1.0), st.integers(1, 1 << 30), st.integers(2, 10))


def series(*sizes: tuple[int, int], start: datetime = MONDAY) -> list[Captured]:
    """Captures of (bytes, bytes of the databases), one a day, newest first."""
    return [Captured(start - number * DAY, *size) for number, size in enumerate(sizes)]


def judge(captures: list[Captured], deviation: float = 0.2, floor: int = 16 << 20, history: int = 4) -> Size:
    return usual(captures, deviation=deviation, floor=floor, history=history)


@given(st.lists(SIZES, min_size=1, max_size=10), LIMITS)
def test_too_few_say_nothing(sizes: list[int], limits: tuple[float, int, int]) -> None:
    deviation, floor, _ = limits
    judged = judge(series(*((size, size) for size in sizes)), deviation, floor, history=10)
    assert judged.ok
    assert judged.median is None


@given(st.lists(st.tuples(SIZES, SIZES), min_size=5, max_size=60), LIMITS, st.floats(-1, 1))
def test_what_is_within_the_part_that_may_differ_is_usual(
    sizes: list[tuple[int, int]], limits: tuple[float, int, int], part: float
) -> None:
    """All alike, whatever the databases do: no alarm inside the deviation, nor inside the floor."""
    deviation, floor, history = limits
    level = sizes[0][0]
    alike = [(level, databases) for _, databases in sizes]
    for newest in (level + int(part * deviation * level), level + int(part * floor)):
        if newest > 0:
            assert judge(series((newest, alike[0][1]), *alike), deviation, floor, history).ok


@given(st.integers(min_value=GB, max_value=1 << 50), st.floats(0.0, 0.79), st.integers(5, 60))
def test_what_lost_a_part_is_told_even_where_the_databases_shrank_with_it(level: int, left: float, count: int) -> None:
    newest = max(int(level * left), 1)
    assert not judge(series((newest, newest), *[(level, level)] * count)).ok


@given(st.integers(min_value=GB, max_value=1 << 45), st.floats(1.21, 30.0), st.integers(5, 60))
def test_growth_is_told_unless_the_databases_grew_with_it(level: int, times: float, count: int) -> None:
    newest = int(level * times) + 1
    assert not judge(series((newest, level), *[(level, level)] * count)).ok
    assert judge(series((newest, newest), *[(level, level)] * count)).ok
    assert judge(series((level, newest), *[(level, level)] * count)).ok, "dead rows are in no backup"


@given(st.lists(st.integers(min_value=GB, max_value=2 * GB), min_size=30, max_size=30), st.integers(20 * GB, 90 * GB))
def test_a_few_strange_ones_in_the_history_hide_nothing(sizes: list[int], strange: int) -> None:
    history = [(size, GB) for size in sizes]
    for number in (3, 9, 20):
        history[number] = (strange, GB)
    assert not judge(series((strange, GB), *history)).ok


def test_a_weekday_is_compared_with_itself() -> None:
    """Mondays are three times as large: that is usual for a Monday, and for no other day."""
    week = [(3 * GB, GB) if number % 7 == 0 else (GB, GB) for number in range(36)]
    assert judge(series(*week)).ok
    assert not judge(series((3 * GB, GB), *week, start=MONDAY + DAY)).ok


def test_a_new_level_is_told_and_then_usual() -> None:
    """Told for two nights; the third has neighbours like it."""
    told = [judge(series(*[(5 * GB, GB)] * nights, *[(GB, GB)] * 30)).ok for nights in (1, 2, 3)]
    assert told == [False, False, True]


def test_what_varies_is_given_more_room() -> None:
    quiet = [(GB, GB), (GB + GB // 50, GB)] * 8
    lively = [(GB, GB), (2 * GB, GB), (3 * GB, GB)] * 6
    assert not judge(series((4 * GB, GB), *quiet)).ok
    assert judge(series((4 * GB, GB), *lively)).ok

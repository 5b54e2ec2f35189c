"""Rates: learned from what was measured, the usual ones where nothing was."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.model import Measurement
from pgbackup.domain.rates import Rates, learned
from pgbackup.postgres.throwaway import Redo, parse_redo

MOMENT = datetime(2026, 1, 31, tzinfo=UTC)
BIG = 100_000_000


def took(step: str, seconds: float, count: int = BIG) -> Measurement:
    return Measurement(step, count, seconds, MOMENT)


def test_nothing_measured_is_what_is_usual() -> None:
    assert learned(()) == Rates()
    assert "usual rates" in str(learned(()))


def test_a_step_that_was_measured_takes_its_median_and_no_other_step() -> None:
    rates = learned([took("replay", 1), took("replay", 100), took("replay", 2), took("gone", 1)])
    assert rates == Rates(replay=BIG / 2, measured=("replay",))
    assert str(rates) == "predicted from measured rates of replay; usual ones for the rest"
    all_of_them = learned([took(step, 1) for step in ("fetch", "unpack", "combine", "stage", "replay")])
    assert str(all_of_them).endswith("combine, stage, replay")


def test_what_is_small_or_long_ago_does_not_count() -> None:
    assert learned([took("fetch", 1, count=1_000_000)]) == Rates()
    newest_first = [*[took("fetch", 1)] * 15, *[took("fetch", 1000)] * 80]
    assert learned(newest_first).fetch == BIG


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=15))
def test_a_learned_rate_lies_among_the_measured(seconds: list[float]) -> None:
    rates = [BIG / one for one in seconds]
    assert min(rates) <= learned([took("stage", one) for one in seconds]).stage <= max(rates)


def test_a_server_says_how_fast_it_replayed() -> None:
    log = (
        "2026-01-31 02:00:00 UTC [7] LOG:  starting backup recovery\n"
        "2026-01-31 02:00:00 UTC [7] LOG:  redo starts at 1/2000028\n"
        "2026-01-31 02:00:01 UTC [7] LOG:  consistent recovery state reached at 1/2000120\n"
        "2026-01-31 02:00:09 UTC [7] LOG:  redo done at 1/A000000 system usage: CPU: user: 0.10 s, system: 0.20 s,"
        " elapsed: 9.25 s\n"
    )
    assert parse_redo(log) == Redo(0x7FFFFD8, 9.25)
    assert parse_redo(log.replace("redo starts", "redo is not required")) is None

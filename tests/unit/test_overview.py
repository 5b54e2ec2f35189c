"""What people see of a cluster: what can be reached is what a plan would reach, and nothing bad looks good."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.history import ZERO, History, histories

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import CopyState, Kind, Listed, State, Watched
from pgbackup.domain.prospect import Keeping, Prospect, Reachable, prospect_document, prospect_of
from pgbackup.domain.recovery import plan_recovery
from pgbackup.domain.settings import Objectives
from pgbackup.domain.target import AtTime
from pgbackup.overview.document import Level, Overview, compose, overview_json, overview_schema
from pgbackup.overview.look import prospect

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
VERIFIED = Listed("b", Kind.BASE, None, State.VERIFIED, None, NOW, 60.0, 7, {"local": CopyState.VERIFIED})
HOLDS = Watched("the archive", True, "", "", "x", NOW, NOW, True)
REACHED = Prospect("streamflix", NOW, (Reachable(1, NOW - timedelta(days=9), NOW),), (), (), (), 0, 60.0, "")


def composed(
    backups: tuple[Listed, ...] = (VERIFIED,),
    watched: tuple[Watched, ...] = (HOLDS,),
    seen: Prospect | None = REACHED,
    now: datetime = NOW,
) -> Overview:
    return compose(
        "streamflix",
        now=now,
        objectives=Objectives(),
        repositories=("local",),
        backups=backups,
        watched=watched,
        prospect=seen,
        holdings=(),
        captured=(),
        wal_copies=(),
        drills=(),
        contacts=(),
    )


def test_what_is_verified_watched_and_reachable_is_good() -> None:
    assert composed().summary.level is Level.GOOD


@pytest.mark.parametrize(
    ("worse", "name"),
    [
        ({"backups": ()}, "no backup is verified"),
        ({"backups": (dataclasses.replace(VERIFIED, state=State.REJECTED),)}, "no backup is verified"),
        ({"watched": (dataclasses.replace(HOLDS, ok=False),)}, "the archive"),
        ({"now": NOW + timedelta(hours=1)}, "the watch is silent"),
        ({"seen": dataclasses.replace(REACHED, predicted_seconds=5 * 3600.0)}, "longer than the objective"),
        (
            {"seen": dataclasses.replace(REACHED, windows=(), predicted_seconds=None, refusal="no")},
            "nothing can be recovered to",
        ),
        ({"now": NOW + timedelta(hours=2)}, "more would be lost"),
        ({"now": NOW - timedelta(hours=3)}, "clocks differ"),
    ],
)
def test_each_fault_is_a_problem_by_name(worse: dict[str, object], name: str) -> None:
    summary = composed(**worse).summary  # type: ignore[arg-type]
    assert summary.level is Level.BAD
    assert any(name in problem.name for problem in summary.problems)


@pytest.mark.parametrize("missing", [{"watched": ()}, {"seen": None}])
def test_what_nobody_has_looked_at_is_not_good(missing: dict[str, object]) -> None:
    assert composed(**missing).summary.level is Level.UNKNOWN  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.integers(0, 1300))
def test_a_moment_is_shown_as_reachable_exactly_when_a_plan_reaches_it(history: History, second: int) -> None:
    holdings = history.holdings()
    seen = prospect(holdings, (), ZERO)
    moment = ZERO + timedelta(seconds=second)
    for timeline in holdings.timelines if holdings.links else ():
        shown = any(one.earliest <= moment <= one.latest for one in seen.windows if one.timeline == timeline)
        try:
            plan_recovery(holdings, AtTime(moment), timeline)
            planned = True
        except RefusedError:
            planned = False
        assert shown is planned


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_what_was_seen_is_read_back_as_it_was_written(history: History) -> None:
    seen = prospect(history.holdings(), (Keeping("b", "o", "r", None),), ZERO)
    assert prospect_of(prospect_document(seen)) == seen
    assert all(one.earliest <= one.latest for one in (*seen.windows, *seen.coverage))
    for one, other in product(seen.coverage, seen.coverage):
        assert one is other or one.timeline != other.timeline or (one.start, one.end) != (other.start, other.end)


def test_the_document_keeps_its_shape() -> None:
    """The page, and whoever else reads it, counts on these names."""
    properties = overview_schema()["properties"]
    assert set(properties) == {
        *("summary", "watched", "backups", "repositories", "captured", "prospect", "drills", "contacts")
    }
    assert b'"state":"verified"' in overview_json(composed())

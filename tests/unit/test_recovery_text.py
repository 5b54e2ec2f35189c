"""What people read of a recovery holds what was planned, and nothing that a name smuggles in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pgbackup.domain.lsn import Lsn
from pgbackup.domain.recovery import RecoveryPlan, Step
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target
from pgbackup.domain.wal import Stretch
from pgbackup.recover import Foresight, Recovered, Request, plan_text, report_text
from pgbackup.recover.replay import Replayed

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
BACKTICKED = AtName("a`|<b>*x*")
TARGETS: tuple[Target, ...] = (Latest(), AtTime(NOON), AtLsn(Lsn(0x5000028)), AtXid(12345678901), BACKTICKED)


def foresight(target: Target) -> Foresight:
    plan = RecoveryPlan(
        cluster="streamflix",
        system_identifier="1",
        repository="local",
        target=target,
        stop=AtLsn(Lsn(0x5000100)) if isinstance(target, AtName) else target,
        at_end=False,
        branch=2,
        timeline=2,
        segment_size=16 << 20,
        chain=("streamflix_20260131_020000_base", "streamflix_20260131_080000_incr"),
        bundles=(),
        wal=(Stretch(2, Lsn(0x4000000), Lsn(0x6000000)),),
        archived=(),
        consistent=Lsn(0x4000100),
        steps=(Step("fetch and decrypt", 5_000_000, 1.5), Step("start", 0, 2.5)),
        loses=timedelta(minutes=5, seconds=3),
        warnings=("unlogged tables come back empty: db.public.a|b",),
    )
    request = Request(target, Path("/srv/recovered/monday"), None, "local", 5433)
    return Foresight(request, plan, NOON, 7_000_000, 9_000_000)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_plan_goes_from_task_to_task_unchanged(target: Target) -> None:
    adapter, ahead = TypeAdapter(Foresight), foresight(target)
    assert adapter.validate_python(adapter.dump_python(ahead, mode="json")) == ahead


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_plan_says_what_will_happen(target: Target) -> None:
    text = plan_text(foresight(target))
    for word in (
        "_080000_incr",
        f"timeline 2: {Lsn(0x4000000)} to {Lsn(0x6000000)}",
        "/srv/recovered/monday",
        "127.0.0.1:5433",
    ):
        assert word in text
    for word in ("| start |  | 2.5 s |", "| total |  | 4.0 s |", "0:05:03", "7.0 MB", "9.0 MB are free"):
        assert word in text


def test_a_name_is_no_markup() -> None:
    text = plan_text(foresight(BACKTICKED))
    assert r"a\`\|\<b\>\*x\*" in text
    assert r"a\|b" in text


def test_a_report_says_what_is_lost_and_what_waits() -> None:
    ahead = foresight(AtTime(NOON))
    found = Replayed(Lsn(0x5000028), 3, NOON - timedelta(seconds=90), NOON - timedelta(seconds=88), ("pay|ment",))
    steps = (Step("fetch and decrypt", 5_000_000, 1.0), Step("sync", 0, 0.5))
    text = report_text(Recovered(ahead.plan, ahead.request.into, found, steps, None), ahead, "by dana")
    assert "| lost | 88.000 s" in text
    assert "| fetch and decrypt | 1.5 s | 1.0 s |" in text
    assert "| sync |  | 0.5 s |" in text
    assert f"{Lsn(0x5000028)}, now timeline 3" in text
    assert r"pay\|ment waits for COMMIT PREPARED" in text
    assert "pg_ctl start -D /srv/recovered/monday" in text

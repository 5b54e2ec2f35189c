"""What people read of a recovery holds what was planned, and nothing that a name smuggles in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pgbackup.domain.findings import APPLICATION
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Finding
from pgbackup.domain.recovery import RecoveryPlan, Step
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target
from pgbackup.domain.wal import Stretch
from pgbackup.recover import (
    Foresight,
    Recovered,
    Request,
    Switched,
    SwitchPlan,
    plan_text,
    report_text,
    switch_plan_text,
    switched_text,
)
from pgbackup.recover.replay import Replayed
from pgbackup.report.recovery import RecoveryNews, Stage, compose_recovery

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
    assert "rm -r /srv/recovered/monday" in text
    replaced = report_text(
        Recovered(ahead.plan, ahead.request.into, found, steps, 5433), ahead, "by dana", replaced=True
    )
    assert "rm -r" not in replaced, "it would remove production"


def test_a_switch_says_what_is_renamed_and_how_to_undo_it() -> None:
    plan = SwitchPlan(
        cluster="streamflix",
        folder=Path("/srv/new"),
        data=Path("/srv/data"),
        before=Path("/srv/data.before_1"),
        system_identifier="1",
        timeline=3,
        major=18,
        alive=True,
        sessions=7,
        bytes=5_000_000,
        collations=("db: a|b",),
        notes=("slot s|t",),
    )
    text = switch_plan_text(plan)
    for word in (
        "/srv/data becomes /srv/data.before_1, 5.0 MB, and is kept",
        "/srv/new becomes /srv/data, timeline 3",
        "7 sessions end",
        r"db: a\|b",
        r"slot s\|t",
    ):
        assert word in text
    finding = Finding(f"{APPLICATION}: a|yes|b", False, 0.1, "app may not connect", "grant it")
    done = Switched(plan, 1.5, 0.5, (finding,), ("prepared",), ("pg_ctl stop", "mv -T 'a|b' c"))
    text = switched_text(done, "by dana")
    assert "not touched" not in text
    for word in (
        "write for 1.5 s",
        "connect for 0.5 s",
        "kept as /srv/data.before_1",
        "by dana",
        rf"| {APPLICATION}: a\|yes\|b | **NO** |",
        "note: prepared",
    ):
        assert word in text
    assert text.endswith("    pg_ctl stop\n    mv -T 'a|b' c"), "commands are for copying: nothing is escaped"


@pytest.mark.parametrize(
    ("procedure", "stage", "may_have_switched", "untouched"),
    [
        ("recover point in time", Stage.DONE, False, True),
        ("recover point in time", Stage.FAILED, False, True),
        ("recover point in time", Stage.ASKED, False, False),
        ("recover point in time", Stage.DONE, True, False),
        ("recover point in time", Stage.FAILED, True, False),
        ("recover database", Stage.DONE, False, False),
        ("disaster recovery", Stage.FAILED, False, False),
    ],
)
def test_a_mail_calls_the_protected_server_untouched_only_when_it_is(
    procedure: str, stage: Stage, *, may_have_switched: bool, untouched: bool
) -> None:
    news = RecoveryNews("streamflix", procedure, stage, "run", "http://x", may_have_switched=may_have_switched)
    assert ("was not touched" in compose_recovery(news)[1]) is untouched

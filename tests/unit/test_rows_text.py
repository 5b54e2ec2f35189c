"""What people read of a database or a table that is recovered, and of a cutover, before they approve it and after."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter

from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Finding, Verdict
from pgbackup.domain.recovery import RecoveryPlan, Step
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest
from pgbackup.domain.wal import Stretch
from pgbackup.postgres.beside import Leftover
from pgbackup.postgres.replace import Violation
from pgbackup.recover import (
    CutOver,
    CutoverPlan,
    DatabasePlan,
    FromBackup,
    FromMoment,
    Origin,
    RecoveredDatabase,
    RecoveredTable,
    TablePlan,
    Way,
    cutover_plan_text,
    cutover_report_text,
    database_plan_text,
    database_report_text,
    table_plan_text,
    table_report_text,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
BACKUP = FromBackup("local", "streamflix_20260131_020000_full", NOON, Verdict.VERIFIED)
RECOVERY = RecoveryPlan(
    cluster="streamflix",
    system_identifier="1",
    repository="eu",
    target=AtTime(NOON),
    stop=AtTime(NOON),
    at_end=False,
    branch=2,
    timeline=2,
    segment_size=16 << 20,
    chain=("streamflix_20260131_020000_base", "streamflix_20260131_080000_incr"),
    bundles=(),
    wal=(Stretch(2, Lsn(0x4000000), Lsn(0x6000000)),),
    archived=(),
    consistent=Lsn(0x4000100),
    steps=(Step("fetch and decrypt", 5_000_000, 1.5), Step("replay", 0, 2.5)),
    loses=timedelta(minutes=5),
    warnings=("unlogged tables come back empty: a|b",),
)
MOMENT = FromMoment(RECOVERY, 7_000_000, 9_000_000)
ORIGINS: tuple[Origin, ...] = (
    BACKUP,
    replace(BACKUP, verdict=None),
    *(
        replace(MOMENT, recovery=replace(RECOVERY, target=target))
        for target in (Latest(), AtTime(NOON), AtLsn(Lsn(0x5000028)), AtXid(12345678901), AtName("a`|<b>*x*"))
    ),
)
TABLE = TablePlan("streamflix", "shop", "public", "a|<b>", Way.IN_PLACE, True, BACKUP, 500)
DATABASE = DatabasePlan(
    "streamflix", "shop|", "shop_restored", MOMENT, 3_000_000, 7, (Leftover("old|one", "", 1, 0, 'DROP DATABASE "o"'),)
)
CUTOVER = CutoverPlan("streamflix", "shop", "shop_restored", "shop_before", 3, ("C: 1, 2",), ("slot s stays",), False)


@pytest.mark.parametrize("origin", ORIGINS, ids=str)
def test_a_plan_goes_from_task_to_task_unchanged(origin: Origin) -> None:
    for plan in (replace(TABLE, origin=origin), replace(DATABASE, origin=origin)):
        adapter: TypeAdapter[object] = TypeAdapter(type(plan))
        assert adapter.validate_python(adapter.dump_python(plan, mode="json")) == plan


@pytest.mark.parametrize("write", [table_plan_text, database_plan_text])
def test_a_plan_from_a_moment_shows_the_whole_work(write: object) -> None:
    plan = replace(TABLE, origin=MOMENT) if write is table_plan_text else DATABASE
    text = write(plan)  # type: ignore[operator]
    for word in (
        "2026-01-31 12:00:00Z",
        "_020000_base + streamflix_20260131_080000_incr, from eu",
        f"timeline 2: {Lsn(0x4000000)} to {Lsn(0x6000000)}",
        "needs 7.0 MB, 9.0 MB are free",
        "| replay |  | 2.5 s |",
        "4.0 s",
        r"a\|b",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (TABLE, "its rows are REPLACED"),
        (replace(TABLE, way=Way.BESIDE), "a new table beside"),
        (replace(TABLE, way=Way.MERGE), "no row that is there changes"),
        (replace(TABLE, present=False), "made again by its own name"),
    ],
)
def test_a_plan_from_a_backup_says_what_happens_to_the_rows(plan: TablePlan, said: str) -> None:
    text = table_plan_text(plan)
    for word in (
        said,
        r"public.a\|\<b\>",
        "streamflix_20260131_020000_full, verified, in local",
        "| rows there | 500 |",
    ):
        assert word in text


def test_an_earlier_recovery_is_shown_with_what_drops_it() -> None:
    assert r"old\|one is of an earlier recovery" in database_plan_text(DATABASE)
    assert 'DROP DATABASE "o";' in database_plan_text(DATABASE)


def test_a_table_beside_is_reported_with_what_the_next_step_would_do() -> None:
    violation = Violation("of|key", "line", 4, ("(1)",))
    done = RecoveredTable(TABLE, 500, '"public"."b"', None, 0, 30, (violation,), ("a|note",))
    text = table_report_text(done, "by dana")
    for word in ("**500** rows are beside", "a merge would add 30", r"4 rows of line (of\|key)", r"a\|note", "by dana"):
        assert word in text
    done = replace(done, staged=None, before='"public"."before"', added=500, violations=())
    text = table_report_text(done, "by dana")
    assert "**500** rows are in" in text
    assert 'are kept in "public"."before"' in text


def test_a_database_that_is_not_equal_is_never_reported_as_recovered() -> None:
    good, bad = Finding("content", True, 0.1, "7 tables", ""), Finding("tables", False, 0.1, "a|b is missing", "look")
    done = RecoveredDatabase(DATABASE, "shop_restored", (good,), (Step("restore", 0, 2.0), Step("dump", 0, 1.0)), ())
    text = database_report_text(done, "by dana")
    for word in ("equal to its source", "| total | 3.0 s |", "cutover", "by dana"):
        assert word in text
    text = database_report_text(replace(done, name="restoring_x", findings=(good, bad)), "by dana")
    assert "does NOT equal" in text
    assert r"| tables | **NO** | a\|b is missing | look |" in text
    assert "equal to its source" not in text


def test_a_cutover_shows_what_is_renamed_and_what_was_found() -> None:
    text = cutover_plan_text(CUTOVER)
    for word in ("| shop | shop_before |", "3 sessions end", "REINDEX first: C: 1, 2", "slot s stays"):
        assert word in text
    assert "already" in cutover_plan_text(replace(CUTOVER, done=True))
    failed = Finding("application", False, 0.1, "app may not connect", "grant it")
    text = cutover_report_text(CutOver(CUTOVER, 0.25, (failed,)), "by dana")
    for word in ("cannot work", "| nobody could connect for | 0.2 s |", "shop_before", "by dana", "**NO**"):
        assert word in text

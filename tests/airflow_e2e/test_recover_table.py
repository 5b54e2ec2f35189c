"""A table by DAG runs: its rows beside it, and in it only after a second approval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.airflow_e2e.conftest import Backups, Night
from tests.airflow_e2e.stack import REGIONS, Stack
from tests.airflow_e2e.test_recover_database import refused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

DAG = "library_recover_table"
LATER = ("plan_put", "approve_put", "put", "report")
RELATIONS = "SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"


def ask(stack: Stack, statement: str, database: str = "library") -> list[Any]:
    """The first column of what a statement returns."""
    with stack.protected.connect(database) as connection:
        return [row[0] for row in connection.execute(statement).fetchall()]


def books(stack: Stack) -> list[Any]:
    return ask(stack, "SELECT book::text FROM book ORDER BY book_id")


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    """Drop what recoveries put beside."""
    before = set(ask(stack, RELATIONS))
    yield
    for name in set(ask(stack, RELATIONS)) - before:
        if "_restored_" in name or "_before_" in name:
            stack.protected.execute(f"DROP TABLE {name}", "library")


def test_what_cannot_be_is_refused_before_anybody_is_asked(stack: Stack, night: Night, backups: Backups) -> None:
    before = ask(stack, RELATIONS)
    good = backups.verified
    cases: dict[str, dict[str, Any]] = {
        "near: public.book": {"backup": good, "table": "public.bok"},
        "was rejected when it was verified": {"backup": backups.rejected, "table": "public.book"},
        "can bring back": {"moment": "2099-01-01T00:00:00Z", "table": "public.Title"},
        "unknown keys": {"backup": good, "table": "public.book", "in_place": True},
    }
    clusters = {"can bring back": "streamflix"}
    runs = {
        reason: stack.rest.trigger(f"{clusters.get(reason, 'library')}_recover_table", conf)
        for reason, conf in cases.items()
    }
    for reason, run in runs.items():
        assert reason in refused(run, "approve", "recover", *LATER)
    assert ask(stack, RELATIONS) == before


def test_deleted_rows_are_back_in_place_after_a_second_approval(stack: Stack, backups: Backups) -> None:
    whole = books(stack)
    oid = ask(stack, "SELECT 'book'::regclass::oid::int8")
    stack.protected.execute("DELETE FROM book WHERE book_id > 100", "library")
    stack.protected.execute("UPDATE book SET title = 'lost' WHERE book_id = 1", "library")
    damaged = books(stack)
    run = stack.rest.trigger(DAG, {"way": "in place"})
    options = run.wait_for_question("choose_backup")["options"]
    run.choose(next(one for one in options if one.startswith(backups.verified)), "choose_backup")
    options = run.wait_for_question("choose_table")["options"]
    assert {"public.book (4000 rows)", "stock.shelf (20 rows)"} < set(options)
    run.choose("public.book (4000 rows)", "choose_table")
    assert "beside" in run.wait_for_question()["body"]
    run.answer(stack.colleague, "Approve", "library")

    question = run.wait_for_question("approve_put")
    assert books(stack) == damaged
    for word in ("100 rows are REPLACED by 4000", "kept in a table beside"):
        assert word in question["body"]
    run.answer(stack.colleague, "Approve", "library", "approve_put")
    assert run.wait() == "success", run.logs()
    assert books(stack) == whole
    assert ask(stack, "SELECT 'book'::regclass::oid::int8") == oid
    (kept,) = (name for name in ask(stack, RELATIONS) if "book_before_" in name)
    assert ask(stack, f"SELECT k::text FROM {kept} AS k ORDER BY book_id") == damaged
    assert kept.partition(".")[2] in run.log(run.tasks()["report"]).replace("\\", "")
    assert not [name for name in ask(stack, RELATIONS) if "_restored_" in name]


def test_rows_that_would_refer_to_nothing_are_listed_and_nothing_is_changed(stack: Stack, backups: Backups) -> None:
    stack.protected.execute("INSERT INTO stock.shelf VALUES (99, 'new'); INSERT INTO book VALUES (9999, 99)", "library")
    try:
        run = stack.rest.trigger(DAG, {"backup": backups.verified, "table": "stock.shelf", "way": "in place"})
        run.wait_for_question()
        run.answer(stack.colleague, "Approve", "library")
        logs = refused(run, *LATER[1:])
        assert "rows would refer to nothing: nothing was changed" in logs
        assert "1 rows of public.book (book_shelf_id_fkey): (99)" in logs
        assert len(ask(stack, "SELECT shelf_id FROM stock.shelf")) == 21
    finally:
        stack.protected.execute("DELETE FROM book WHERE book_id = 9999", "library")
        stack.protected.execute(
            "SET session_replication_role = replica; DELETE FROM stock.shelf WHERE shelf_id = 99", "library"
        )


def test_a_table_at_a_moment_is_brought_beside(stack: Stack, night: Night) -> None:
    (base,) = [backup_id for backup_id in night.verifications if backup_id.endswith("_base")]
    backup = stack.site().catalog.backup(base)
    assert backup is not None
    assert backup.backup_time is not None
    conf = {"database": "streamflix", "table": "public.Title", "moment": backup.backup_time.isoformat()}
    run = stack.rest.trigger("streamflix_recover_table", {**conf, "repository": REGIONS[1]})
    assert f"{base}, from {REGIONS[1]}" in run.wait_for_question()["body"]
    run.answer(stack.colleague, "Approve", "streamflix")
    assert run.wait() == "success", run.logs()
    assert {task["state"] for task in run.tasks().values()} == {"success"}
    (staged,) = (name for name in ask(stack, RELATIONS, "streamflix") if "Title_restored_" in name)
    quoted = '"public"."{}"'.format(staged.partition(".")[2])
    assert ask(stack, f"SELECT count(*) FROM {quoted}", "streamflix") == ask(
        stack, 'SELECT count(*) FROM "Title"', "streamflix"
    )
    stack.protected.execute(f"DROP TABLE {quoted}", "streamflix")

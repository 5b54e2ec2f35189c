"""A database by DAG runs: beside the present one, and in its place only after a second approval."""

from __future__ import annotations

from typing import Any

import pytest

from pgbackup.copy import copy_backup
from tests.airflow_e2e.conftest import Backups
from tests.airflow_e2e.rest import Run
from tests.airflow_e2e.stack import REGIONS, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

DAG = "library_recover_database"
LATER = ("recover", "plan_cutover", "approve_cutover", "cutover", "report")


def databases(stack: Stack) -> dict[str, int]:
    """Every database of the protected server, by name, with its OID."""
    with stack.protected.connect("postgres") as connection:
        return dict(connection.execute("SELECT datname::text, oid::int8 FROM pg_database").fetchall())


def books(stack: Stack, database: str) -> int:
    with stack.protected.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM book").fetchone()
    assert row is not None
    return int(row[0])


def refused(run: Run, *later: str) -> str:
    """See that a run is red and that none of the ``later`` tasks did anything; return its logs."""
    assert run.wait() == "failed"
    tasks = run.tasks()
    assert {tasks[name]["state"] for name in later} == {"upstream_failed"}
    assert {task["try_number"] for task in tasks.values()} <= {0, 1}, "the answer is no, however often it is asked"
    return run.logs()


def test_what_cannot_be_is_refused_before_anybody_is_asked(stack: Stack, backups: Backups) -> None:
    before = databases(stack)
    good, rejected = backups.verified, backups.rejected
    cases: dict[str, dict[str, Any]] = {
        "was rejected when it was verified": {"backup": rejected},
        "is not the chosen backup": {"backup": rejected, "even_rejected": good},
        "database 'library' exists already": {"backup": good, "name": "library"},
        "library_20260101_020000_full": {"backup": "library_20260101_020000_full"},
        "unknown keys": {"backup": good, "as": "x"},
    }
    runs = {reason: stack.rest.trigger(DAG, conf) for reason, conf in cases.items()}
    for reason, run in runs.items():
        assert reason in refused(run, "approve", *LATER)
    assert databases(stack) == before


def test_a_choice_that_vanished_is_refused(stack: Stack, backups: Backups) -> None:
    run = stack.rest.trigger(DAG, {"repository": "local"})
    question = run.wait_for_question("choose")
    assert [option.split()[0] for option in question["options"]] == [backups.going, backups.verified]
    assert all("(verified, " in option for option in question["options"])
    sums = stack.backups / "full" / backups.going / "SHA256SUMS"
    aside = sums.rename(stack.home / sums.name)  # what deletion begins with
    try:
        run.choose(question["options"][0])
        assert f"{backups.going}" in (logs := refused(run, "approve", *LATER))
        assert "is being deleted" in logs
    finally:
        aside.rename(sums)


def test_a_rejected_backup_is_taken_by_its_name_alone_and_never_called_equal(stack: Stack, backups: Backups) -> None:
    before = databases(stack)
    run = stack.rest.trigger(DAG, {"backup": backups.rejected, "even_rejected": backups.rejected})
    assert "rejected" in run.wait_for_question()["body"]
    run.answer(stack.colleague, "Approve", "library")
    assert refused(run, *LATER[1:])
    assert databases(stack) == before


def test_silence_chooses_nothing(stack: Stack, backups: Backups) -> None:
    run = stack.rest.trigger(DAG)
    run.wait_for_question("choose")
    run.time_out(stack.ops, "choose")
    assert "nobody chose within 0:30:00: nothing was touched" in refused(run, "plan", "approve", *LATER)


def test_without_a_wish_for_it_nothing_is_replaced(stack: Stack, backups: Backups) -> None:
    before, far = databases(stack), REGIONS[0]
    copy_backup(stack.site(), backups.verified, far)
    run = stack.rest.trigger(DAG, {"backup": backups.verified, "name": "look", "repository": far})
    body = run.wait_for_question()["body"]
    assert "look" in body
    assert f"verified, in {far}" in body, "it was proved before it was copied"
    assert databases(stack) == before
    run.answer(stack.colleague, "Approve", "library")
    assert run.wait() == "success", run.logs()
    try:
        tasks = run.tasks()
        assert {task["state"] for task in tasks.values()} == {"success"}, "none is skipped: the report neither"
        assert "no cutover was asked for" in run.log(tasks["approve_cutover"])
        assert databases(stack).keys() - before.keys() == {"look"}
        assert books(stack, "look") == books(stack, "library")
        report = run.log(tasks["report"])
        told = stack.wait_for_mail(run, "recover database", "recovered")
        for word in ("look", backups.verified, "by dana", "not touched"):
            assert word in report
            assert word in told
    finally:
        stack.protected.execute("DROP DATABASE look")


def test_a_database_takes_the_place_of_the_present_one_after_a_second_approval(stack: Stack, backups: Backups) -> None:
    before = databases(stack)
    good = books(stack, "library")
    stack.protected.execute("DELETE FROM book WHERE book_id > 100", "library")
    damaged = books(stack, "library")
    run = stack.rest.trigger(DAG, {"replace": True})
    question = run.wait_for_question("choose")
    (option,) = (one for one in question["options"] if one.startswith(backups.verified))
    run.choose(option)
    run.wait_for_question()
    run.answer(stack.colleague, "Approve", "library")

    question = run.wait_for_question("approve_cutover")
    assert books(stack, "library") == damaged
    (restored,) = databases(stack).keys() - before.keys()
    asked = stack.wait_for_mail(run, "recover database", "waits for an APPROVAL")
    for text in (question["body"], asked):
        for word in (restored, "library_before_", "sessions end", "rows and contents equal the source"):
            assert word in text.replace("\\", "")
    run.answer(stack.colleague, "Approve", "library", "approve_cutover")
    assert run.wait() == "success", run.logs()
    after = databases(stack)
    (kept,) = (name for name, oid in after.items() if oid == before["library"])
    try:
        stack.protected.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')  # nobody writes into it by mistake
        assert (books(stack, "library"), books(stack, kept)) == (good, damaged)
        assert kept in run.log(run.tasks()["report"]).replace("\\", "")
        assert after.keys() - before.keys() == {kept}
    finally:
        stack.protected.execute(f'DROP DATABASE "{kept}"')


def test_a_cutover_that_was_rejected_changes_nothing(stack: Stack, backups: Backups) -> None:
    before = databases(stack)
    run = stack.rest.trigger(DAG, {"backup": backups.verified, "name": "look", "replace": True})
    run.wait_for_question()
    run.answer(stack.colleague, "Approve", "library")
    run.wait_for_question("approve_cutover")
    run.answer(stack.colleague, "Reject", task_id="approve_cutover")
    assert "the plan was rejected" in refused(run, "cutover", "report")
    assert {name: oid for name, oid in databases(stack).items() if name != "look"} == before
    stack.protected.execute("DROP DATABASE look")

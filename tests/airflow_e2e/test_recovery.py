"""Recovery by DAG runs: nothing is touched unless a second person approved the plan, and no red run looks green."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgbackup.capture import capture_base
from tests.airflow_e2e.conftest import Branch, Night
from tests.airflow_e2e.processes import Process, end, living
from tests.airflow_e2e.rest import Run, eventually
from tests.airflow_e2e.stack import BRANCH, REGIONS, Stack
from tests.support.archiving import archiving
from tests.support.source import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow, and for the night

DAG = "streamflix_recover_point_in_time"


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    """Remove what was recovered."""
    yield
    for folder in recovered(stack):
        shutil.rmtree(folder)


def recovered(stack: Stack) -> list[Path]:
    """Whatever recoveries left behind."""
    return list(stack.settings.paths.recovered_folder.glob("*"))


def backup_runs(stack: Stack, cluster: str) -> set[str]:
    """The runs of a cluster's full backup."""
    return {str(run["dag_run_id"]) for run in stack.rest.get(f"/dags/{cluster}_full_backup/dagRuns")["dag_runs"]}


def ask(stack: Stack, **conf: Any) -> Run:
    """Ask for a recovery to the latest; return when somebody has to approve it."""
    run = stack.rest.trigger(DAG, {"target": "latest", **conf})
    run.wait_for_question()
    return run


def refused(stack: Stack, run: Run) -> str:
    """See that a run is red, in its approval or before, and that nothing was touched; return its logs."""
    assert run.wait() == "failed"
    tasks = run.tasks()
    assert {tasks[name]["state"] for name in ("recover", "report")} == {"upstream_failed"}
    assert {task["try_number"] for task in tasks.values()} <= {0, 1}, "the answer is no, however often it is asked"
    assert recovered(stack) == []
    return run.logs()


def test_what_cannot_be_is_refused_before_anybody_is_asked(stack: Stack, night: Night) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("can bring back timeline 1 from 20", {"target": "time", "time": "2000-01-01T00:00:00Z"}),
        ("can bring back timeline 1 from 20", {"target": "time", "time": "2099-01-01T00:00:00Z"}),
        ("what is filled in is: nothing", {"target": "time"}),
        ("what is filled in is: lsn", {"target": "latest", "lsn": "0/3000028"}),
        ("absolute path of plain names", {"target": "latest", "folder": "/srv/../etc"}),
        ("unknown keys", {"target": "latest", "cluster_name": "streamflix"}),
        ("people have to switch", {"target": "latest", "replace": True}),
    ]
    for reason, run in [(reason, stack.rest.trigger(DAG, conf)) for reason, conf in cases]:
        assert reason in refused(stack, run)
        assert run.tasks()["approve"]["state"] == "upstream_failed"


@pytest.mark.parametrize("moment", ["yesterday", "2026-01-31T02:00:00", "2026-02-30T02:00:00Z"])
def test_what_is_no_moment_with_a_zone_starts_no_run(stack: Stack, moment: str) -> None:
    assert stack.rest.post_run(DAG, {"target": "time", "time": moment}).status_code == 400


def test_a_rejected_plan_is_not_carried_out(stack: Stack, night: Night) -> None:
    run = ask(stack)
    run.answer(stack.colleague, "Reject")
    assert "the plan was rejected" in refused(stack, run)
    text = stack.wait_for_mail(run, "recover point in time", "FAILED")
    assert "The protected server was not touched" in text


def test_silence_approves_nothing(stack: Stack, night: Night) -> None:
    run = ask(stack)
    run.time_out(stack.ops, "approve")
    assert "nobody approved within 0:30:00" in refused(stack, run)


def test_another_name_approves_nothing(stack: Stack, night: Night) -> None:
    run = ask(stack)
    run.answer(stack.colleague, "Approve", "library")
    assert "was not typed in as 'streamflix'" in refused(stack, run)


def test_who_asked_cannot_approve(stack: Stack, night: Night) -> None:
    run = ask(stack)
    run.answer(stack.rest, "Approve", "streamflix")
    assert "four eyes: admin asked for it, and admin approved" in refused(stack, run)


def test_an_approval_marked_as_given_is_none(stack: Stack, night: Night) -> None:
    run = ask(stack)
    stack.rest.patch(f"{run.path}/taskInstances/approve", {"new_state": "success"})
    assert run.wait() == "failed"
    assert "nobody approved this" in run.logs()
    assert recovered(stack) == []


def test_an_approved_plan_is_carried_out_and_told(stack: Stack, night: Night) -> None:
    (base,) = [backup_id for backup_id in night.verifications if backup_id.endswith("_base")]
    backup = stack.site().catalog.backup(base)
    assert backup is not None
    assert backup.backup_time is not None
    port, nights = free_port(), backup_runs(stack, "streamflix")
    run = ask(stack, target="time", time=backup.backup_time.isoformat(), port=port, repository=REGIONS[0])
    question = run.wait_for_question()
    asked = stack.wait_for_mail(run, "recover point in time", "waits for an APPROVAL")
    for text in (question["body"], asked):
        for word in (f"{base}, from {REGIONS[0]}", "predicted", "total", "will be lost", f"127.0.0.1:{port}"):
            assert word in text
    assert recovered(stack) == []

    run.answer(stack.colleague, "Approve", "streamflix")
    assert run.wait() == "success", run.logs()
    (folder,) = recovered(stack)
    try:
        assert titles(folder, port) == titles(stack.protected.folder, stack.protected.port)
    finally:
        pid = int((folder / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGINT)
        eventually(lambda: pid not in {process.pid for process in living(stack.home)}, "the recovered server's end")
    told = stack.wait_for_mail(run, "recover point in time", "recovered")
    for text in (run.log(run.tasks()["report"]), told):
        for word in (str(folder), "by dana", "lost", "measured", "not touched", "postmaster.pid"):
            assert word in text
    tasks = run.tasks()
    assert tasks["recover"]["try_number"] == 1
    assert {task["state"] for task in tasks.values()} == {"success"}, "none is skipped: the report neither"
    for name in ("approve_switch", "fresh_base"):
        assert "no switch was asked for" in run.log(tasks[name])
    assert backup_runs(stack, "streamflix") == nights, "there is no new timeline"


def test_the_recovered_cluster_takes_the_place_of_the_present_one_after_a_second_approval(
    stack: Stack, branch: Branch
) -> None:
    source, port = branch.source, free_port()
    with archiving(stack.site(), source, BRANCH):
        capture_base(stack.site(), BRANCH)
        before = branch.books()
        with source.connect("library") as connection:
            [moment] = connection.execute("SELECT clock_timestamp()").fetchone() or ()
        source.execute("DELETE FROM book WHERE book_id > 100", "library")
        damaged, inode, others = branch.books(), source.data.stat().st_ino, backup_runs(stack, BRANCH)
        assert damaged < before
        wish = {"target": "time", "time": moment.isoformat(), "port": port, "replace": True}
        run = stack.rest.trigger(f"{BRANCH}_recover_point_in_time", wish)
        assert "asked for once more" in run.wait_for_question()["body"]
        run.answer(stack.colleague, "Approve", BRANCH)

        question = run.wait_for_question("approve_switch")
        (folder,) = source.folder.glob("data.recovered_*")
        assert branch.books(host=str(folder), port=port) == before, "it can be looked at"
        for word in (str(folder), f"{source.data}.before_", "sessions end", "rm -r"):
            assert word in question["body"]
        run.answer(stack.colleague, "Reject", task_id="approve_switch")
        assert run.wait() == "failed"
        assert {run.tasks()[name]["state"] for name in ("switch", "fresh_base", "report")} == {"upstream_failed"}
        assert "was not touched" in stack.wait_for_mail(run, "recover point in time", "FAILED")
        assert (branch.books(), source.data.stat().st_ino) == (damaged, inode)
        assert backup_runs(stack, BRANCH) == others

        run.clear("plan_switch")
        eventually(lambda: run.state != "failed", "another try")
        run.wait_for_question("approve_switch")
        run.answer(stack.colleague, "Approve", BRANCH, "approve_switch")
        assert run.wait() == "success", run.logs()
        assert branch.books() == before
        (kept,) = source.folder.glob("data.before_*")
        assert (kept.stat().st_ino, folder.exists()) == (inode, False)
        (fresh,) = backup_runs(stack, BRANCH) - others
        assert Run(stack.rest, f"{BRANCH}_full_backup", fresh).wait() == "success"
    told = stack.wait_for_mail(run, "recover point in time", "recovered")
    assert "not touched" not in told
    for text in (run.log(run.tasks()["report"]), told):
        for word in (str(kept), "by dana", "To undo it", "nobody could write for", "fetch and decrypt"):
            assert word in text


def test_a_recovery_killed_in_the_middle_goes_on_where_it_was(stack: Stack, night: Night) -> None:
    run = ask(stack)
    run.answer(stack.colleague, "Approve", "streamflix")
    server = eventually(lambda: replaying(stack), "a server that replays")
    os.kill(server.pid, signal.SIGSTOP)
    end(server.parent)
    os.kill(server.pid, signal.SIGCONT)
    assert run.wait() == "success", run.logs()
    assert run.tasks()["recover"]["try_number"] == 2
    assert "going on with the recovery" in run.logs()
    (folder,) = recovered(stack)
    assert (folder / "PG_VERSION").exists()
    assert replaying(stack) is None


def test_a_recovery_that_failed_goes_on_when_it_is_cleared(stack: Stack, night: Night) -> None:
    run = ask(stack)
    hidden = stack.key.private.with_suffix(".hidden")
    stack.key.private.rename(hidden)
    try:
        run.answer(stack.colleague, "Approve", "streamflix")
        assert run.wait() == "failed"
    finally:
        hidden.rename(stack.key.private)
    assert run.tasks()["recover"]["try_number"] == 1, "a missing key is not tried again"
    (unfinished,) = recovered(stack)
    run.clear("recover")
    eventually(lambda: run.state != "failed", "another try")
    assert run.wait() == "success", run.logs()
    assert "going on with the recovery" in run.logs()
    assert "by dana" in run.log(run.tasks()["report"]), "nobody was asked twice"
    (folder,) = recovered(stack)
    assert unfinished == folder.with_name(f"{folder.name}.pgbackup")


def replaying(stack: Stack) -> Process | None:
    """The server that a recovery has started."""
    folder = str(stack.settings.paths.recovered_folder)
    servers = [one for one in living(stack.home) if one.name == "postgres" and any(folder in word for word in one.argv)]
    return min(servers, key=lambda one: one.pid, default=None)


def titles(sockets: Path, port: int) -> int:
    """Count what the sample is about."""
    with psycopg.connect(host=str(sockets), port=port, user="postgres", dbname="streamflix") as connection:
        row = connection.execute('SELECT count(*) FROM "Title"').fetchone()
    assert row is not None
    return int(row[0])

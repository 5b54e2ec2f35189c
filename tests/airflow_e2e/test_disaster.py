"""A disaster recovery by a DAG run: two approvals, five phases, a report; nothing that nobody approved is done."""

from __future__ import annotations

import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgbackup.capture import capture_base
from pgbackup.copy import copy_backup
from tests.airflow_e2e.conftest import Branch
from tests.airflow_e2e.rest import Run, eventually
from tests.airflow_e2e.stack import BRANCH, REGIONS, Stack
from tests.support.archiving import archiving
from tests.support.source import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DAG = f"{BRANCH}_disaster_recovery"


@pytest.fixture(scope="module")
def base(stack: Stack, branch: Branch) -> str:
    """A base of the branch that only one region holds."""
    site = stack.site()
    backup_id = capture_base(site, BRANCH).id
    copy_backup(site, backup_id, REGIONS[0])
    shutil.rmtree(stack.backups / "base" / backup_id)
    site.catalog.expire(backup_id, repository="local")
    return backup_id


def written(stack: Stack, run: Run) -> tuple[str, Path]:
    """The report of the newest incident, and its folder."""
    folder = max((stack.backups / ".incidents").glob(f"{BRANCH}_*"))
    text = (folder / "report.md").read_text()
    assert run.run_id in text.replace("\\", "")
    return text, folder


def test_a_form_that_contradicts_itself_declares_nothing(stack: Stack, base: str) -> None:
    late = {"what": "the disk is gone", "happened_at": "2099-01-01T00:00:00Z"}
    run = stack.rest.finish(DAG, late)
    assert run.state == "failed"
    assert "it cannot have happened in the future" in run.logs()
    assert stack.rest.post_run(DAG, {"what": ""}).status_code == 400
    assert not (stack.backups / ".incidents").exists()


def test_what_was_rejected_touches_nothing_and_the_report_says_so(stack: Stack, branch: Branch, base: str) -> None:
    run = stack.rest.trigger(DAG, {"what": "a false alarm", "port": free_port()})
    question = run.wait_for_question()
    for word in (base, f"from {REGIONS[0]}", "a false alarm", "repository local", "predicted"):
        assert word in question["body"]
    which = f"(SELECT id FROM dag_run WHERE dag_id = '{DAG}' AND run_id = '{run.run_id}')"
    stack.ops.execute(f"UPDATE deadline SET deadline_time = now() WHERE dagrun_id = {which}", "airflow")
    for phase in ("preparation", "recovery", "validation", "cutover"):
        assert "a false alarm" in stack.wait_for_mail(run, f"{phase} is LATE")
    assert not [mail for mail in stack.mailbox.mails if "assessment is LATE" in mail.subject], "that one has ended"
    run.answer(stack.colleague, "Reject")
    assert run.wait() == "failed"
    assert run.tasks()["provision"]["state"] == "upstream_failed"
    mail = stack.wait_for_mail(run, "disaster recovery", "NOT APPROVED")
    text, folder = written(stack, run)
    for told in (mail, text):
        assert "the plan was rejected" in told
        assert "dana" in told
    assert list(stack.branch.folder.glob("data.recovered_*")) == []
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert branch.books() == 4000


def test_a_lost_server_comes_back_from_a_region(stack: Stack, branch: Branch, base: str) -> None:
    source, port = branch.source, free_port()
    source.stop(signal.SIGQUIT)
    shutil.rmtree(source.data)
    happened_at = datetime.now(UTC).isoformat()
    run = stack.rest.trigger(DAG, {"what": "somebody removed the volume", "happened_at": happened_at, "port": port})
    run.wait_for_question()
    run.answer(stack.colleague, "Approve", BRANCH)
    question = run.wait_for_question("approve_switch")
    assert str(source.data) in question["body"]
    (folder,) = source.data.parent.glob("data.recovered_*")
    assert branch.books(host=str(folder), port=port) == 4000
    assert not source.data.exists(), "nobody approved the switch yet"
    run.answer(stack.colleague, "Approve", BRANCH, "approve_switch")
    eventually(lambda: run.tasks()["switch"]["state"] in {"success", "failed"}, "the switch")
    with archiving(stack.site(), source, BRANCH):
        assert run.wait() == "success", run.logs()
        assert branch.books() == 4000
        (fresh,) = stack.rest.get(f"/dags/{BRANCH}_full_backup/dagRuns")["dag_runs"]
        assert Run(stack.rest, f"{BRANCH}_full_backup", fresh["dag_run_id"]).wait() == "success"
    mail = stack.wait_for_mail(run, "disaster recovery", "service restored")
    text, _ = written(stack, run)
    for told in (mail, text):
        for word in (
            "by dana",
            "somebody removed the volume",
            "objective 4:00:00",
            "assessment",
            "rebuild the standbys",
        ):
            assert word in told

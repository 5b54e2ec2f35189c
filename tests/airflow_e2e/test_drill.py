"""The recovery drill by a DAG run: green with its report, or red with an alert; one failure hides nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pgbackup.domain.drill import CHECKLIST, Scenario
from pgbackup.domain.model import State
from pgbackup.recover.present import archive_present
from pgbackup.report.mail import plain
from pgbackup.shelf import kept_reports, read_report
from tests.airflow_e2e.backups import damage, proved, take
from tests.airflow_e2e.conftest import Backups, Night
from tests.airflow_e2e.rest import eventually
from tests.airflow_e2e.stack import CONTACT, Stack
from tests.support.archiving import archiving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow, and for the night


@pytest.fixture
def heartbeats(stack: Stack, night: Night) -> Iterator[None]:
    """WAL with heartbeats behind the night's base."""
    site, source = stack.site(), stack.protected
    with archiving(site, source):
        query = "SELECT count(*) FROM pgbackup.heartbeat"
        with source.connect("library") as connection:
            eventually(lambda: (connection.execute(query).fetchone() or (0,))[0] > 4, "heartbeats")
        superuser = source.parameters("postgres")
        assert archive_present(dataclasses.replace(site, connections=lambda _: superuser), "streamflix")
    yield
    source.execute("SELECT pg_drop_replication_slot('pgbackup')")


def left_behind(stack: Stack) -> list[Path]:
    """Files in the spool."""
    return [path for path in stack.settings.paths.spool_folder.rglob("*") if not path.is_dir()]


def test_a_drill_that_holds_is_green_and_its_report_is_mailed(stack: Stack, night: Night, heartbeats: None) -> None:
    run = stack.rest.finish("streamflix_recovery_drill")
    assert run.state == "success", run.logs()
    done = [one for one in stack.site().catalog.drills("streamflix") if one.owner == run.owner]
    assert {one.scenario for one in done} == set(Scenario)
    assert all(one.ok for one in done)
    ordered = sorted(done, key=lambda one: one.started_at)
    assert [one.scenario for one in ordered] == list(Scenario)
    assert all(one.finished_at <= later.started_at for one, later in pairwise(ordered))
    mail = stack.wait_for_mail(run, "recovery drill", "recovered")
    report = run.log(run.tasks()["report"])
    kept = kept_reports(stack.settings, "streamflix")
    (name,) = [one.name for one in kept if one.procedure == "recovery_drill" and "recovered" in one.headline]
    for text in (mail, report, plain(read_report(stack.settings, "streamflix", name))):
        for word in (night.full, *CHECKLIST, "RTO", "4:00:00 allowed", "1:00:00 allowed", *CONTACT.values()):
            assert word in text
    assert left_behind(stack) == []


def test_a_damaged_backup_makes_it_red_raises_an_alert_and_hides_no_other_scenario(
    stack: Stack, backups: Backups
) -> None:
    bad = take(stack)
    proved(stack, bad)
    name = damage(stack, bad)
    run = stack.rest.finish("library_recovery_drill", {"scenarios": ["table", "full"]})
    assert run.state == "failed"
    tasks = run.tasks()
    states = {name: tasks[name]["state"] for name in ("full", "point_in_time", "table", "report")}
    assert states == {
        "full": "failed",
        "point_in_time": "success",
        "table": "success",
        "report": "upstream_failed",
    }, run.logs()
    assert tasks["full"]["try_number"] == 1, "the answer is no, however often it is asked"
    known = stack.site().catalog.backup(bad)
    assert known is not None
    assert known.state is State.REJECTED
    done = {one.scenario: one for one in stack.site().catalog.drills("library") if one.owner == run.owner}
    assert {scenario: one.ok for scenario, one in done.items()} == {Scenario.FULL: False, Scenario.TABLE: True}
    text = stack.wait_for_mail(run, "recovery drill", "FAILED full")
    for word in (bad, name, "Backup file accessible", "count on no recovery of this kind", *CONTACT.values()):
        assert word in text
    kept = [one for one in kept_reports(stack.settings, "library") if one.procedure == "recovery_drill"]
    assert "FAILED full" in kept[0].headline, "of what failed there is a report, too"
    assert left_behind(stack) == []


@pytest.mark.parametrize(
    ("conf", "reason"),
    [({"scenarios": []}, "no scenario is chosen"), ({"scenario": "full"}, "unknown keys in the run's configuration")],
)
def test_what_is_asked_wrongly_drills_nothing_and_is_red(stack: Stack, conf: dict[str, object], reason: str) -> None:
    run = stack.rest.finish("library_recovery_drill", conf)
    assert run.state == "failed"
    assert reason in run.logs()
    assert [one for one in stack.site().catalog.drills("library") if one.owner == run.owner] == []
    assert "Database Administrator" in stack.wait_for_mail(run, "recovery drill", "FAILED")

"""The rotation by DAG runs: the plan is a table in the run, then applied in each repository by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pgbackup.domain.ids import BackupId
from pgbackup.domain.ports import Site
from pgbackup.restore.rebuild import committed
from pgbackup.rotate import list_holds
from tests.airflow_e2e.rest import Run
from tests.airflow_e2e.stack import REGIONS, Stack
from tests.support import aged

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

PLACES = ("local", "eu", *REGIONS)


class Past:
    """Verified dumps of long ago in each repository; gone with the tests."""

    def __init__(self, stack: Stack) -> None:
        self.site = stack.site("rotation")
        self.ids: list[str] = []

    def store(self, moment: datetime) -> str:
        self.ids.append(aged.stored(self.site, moment, cluster="library", database="library", repositories=PLACES))
        return self.ids[-1]

    def three(self, year: int) -> tuple[str, str, str]:
        """Store the first of a year, then two others; and a young one."""
        self.store(datetime.now(UTC) - timedelta(days=1))
        return (
            self.store(datetime(year, 3, 1, 2, tzinfo=UTC)),
            self.store(datetime(year, 3, 1, 8, tzinfo=UTC)),
            self.store(datetime(year, 3, 1, 14, tzinfo=UTC)),
        )

    def forget(self) -> None:
        for backup_id in map(BackupId.parse, self.ids):
            for repository in PLACES:
                self.site.repositories[repository].clean(backup_id.directory)
        with self.site.catalog._session() as connection:
            connection.execute("DELETE FROM backup_log WHERE id = ANY (%s)", (self.ids,))


@pytest.fixture(scope="module")
def past(stack: Stack) -> Iterator[Past]:
    made = Past(stack)
    yield made
    made.forget()


def held_in(site: Site, repository: str) -> set[str]:
    return {str(one) for one in committed(site.repositories[repository]) if one.cluster == "library"}


def xcom(run: Run, task_id: str, index: int) -> dict[str, str]:
    """What a task returned, as the UI shows it."""
    path = f"{run.path}/taskInstances/{task_id}/xcomEntries/return_value"
    value = run.rest.get(path, map_index=index)["value"]
    return dict(json.loads(value) if isinstance(value, str) else value)


def test_a_rotation_is_shown_then_done_in_each_repository_by_itself(stack: Stack, past: Past) -> None:
    site = past.site
    first, waiting, going = past.three(2021)
    recovery = stack.rest.trigger("library_recover_database", {"backup": waiting, "name": "of_old"})
    recovery.wait_for_question()
    holds = list_holds(site, "library")
    assert [hold.backup_id for hold in holds if hold.owner == recovery.owner] == [waiting]

    down = stack.ways[REGIONS[0]]
    down.refusing = True
    try:
        run = stack.rest.finish("library_daily_expiry")
    finally:
        down.heal()
    assert run.state == "failed", "one region is down"
    tasks = run.tasks()
    states = [tasks[f"rotate.apply[{index}]"]["state"] for index in range(len(PLACES))]
    assert states == ["upstream_failed" if place == REGIONS[0] else "success" for place in PLACES], run.logs()
    log, shown = run.log(tasks["rotate.plan[0]"]), xcom(run, "rotate.plan", 0)["text"]
    for text in (shown, log.replace("\\n", "\n")):
        assert "| backup | why | size |" in text
        assert f"| {going} | **goes**: no rule keeps it |" in text
        assert f"| {waiting} | held by {recovery.owner} until " in text
        assert "are freed." in text
    assert f"- {going}" in xcom(run, "rotate.apply", 0)["text"]
    told = stack.wait_for_mail(run, "daily expiry", "FAILED")
    assert going in told
    for place in PLACES:
        assert {first, waiting} <= held_in(site, place)
        assert (going in held_in(site, place)) == (place == REGIONS[0])

    recovery.answer(stack.colleague, "Reject", "library")
    assert recovery.wait() == "failed"


def test_the_next_rotation_makes_up_for_what_was_missed(stack: Stack, past: Past) -> None:
    first, second, going = past.three(2020)
    run = stack.rest.finish("library_weekly_rotation")
    failed = {name for name, task in run.tasks().items() if task["state"] != "success"}
    assert not {name for name in failed if name.startswith(("rotate", "repositories"))}, run.logs()
    for place in PLACES:
        assert {first, second, going} & held_in(past.site, place) == {first}

"""The storage audit by a DAG run: one bad repository is red alone, and every finding is mailed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.audit import MACHINE, names
from pgbackup.shelf import kept_reports
from tests.airflow_e2e.rest import Run
from tests.airflow_e2e.stack import BRANCH, CONTACT, REGIONS, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

PLACES = (MACHINE, "local", "eu", *REGIONS)


@pytest.fixture
def folder(stack: Stack) -> Iterator[Path]:
    """The repository in a folder."""
    found = stack.settings.repositories["eu"].folder
    assert found is not None
    for one in (stack.backups, found):
        one.mkdir(mode=0o700, exist_ok=True)
    yield found
    found.chmod(0o700)


def states(run: Run) -> dict[str, str]:
    return {task["rendered_map_index"]: task["state"] for task in run.tasks().values()}


def test_one_bad_repository_is_red_alone_and_green_when_it_is_mended(stack: Stack, folder: Path) -> None:
    folder.chmod(0o755)
    run = stack.rest.finish(f"{BRANCH}_quarterly_audit")
    assert states(run) == {place: "failed" if place == "eu" else "success" for place in PLACES}, run.logs()
    (red,) = [task for task in run.tasks().values() if task["state"] == "failed"]
    assert red["try_number"] == 1, "the answer is no, however often it is asked"
    mail = stack.wait_for_mail(run, "quarterly audit", "FAILED")
    for text in (mail, run.log(red)):
        for word in (names.PRIVATE, f"{folder} has mode 0755", "failure", f"chmod -R u=rwX,go= {folder}"):
            assert word in text
    for word in (*PLACES, names.CREDENTIALS, "warning", *CONTACT.values()):
        assert word in mail
    said = {one.procedure: one.headline for one in kept_reports(stack.settings, BRANCH)}
    for place in PLACES:
        headline = said[f"quarterly_audit_{place.replace(' ', '_')}"]
        assert headline.endswith("FAILED" if place == "eu" else "nothing has to be mended"), "its own report"
    folder.chmod(0o700)
    run = stack.rest.finish(f"{BRANCH}_quarterly_audit")
    assert states(run) == dict.fromkeys(PLACES, "success"), run.logs()
    stack.wait_for_mail(run, "quarterly audit", "nothing has to be mended")

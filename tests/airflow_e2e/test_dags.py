"""The DAG files as Airflow parses them: complete, never green over a failure, and clear about a bad configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.airflow_e2e.bag import Bag, Dag
from tests.support.source import ROOT

pytestmark = pytest.mark.airflow

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "catalog": {"airflow_conn_id": "pgbackup_catalog"},
    "encryption": {"enabled": False},
    "mail": {"sender": "backup@example.com", "recipients": ["dba@example.com"]},
    "clusters": {
        "streamflix": {"connection": {"airflow_conn_id": "streamflix"}},
        "library": {
            "connection": {"airflow_conn_id": "library"},
            "full_backup": {"schedule": "30 3 * * *", "due": "20 min"},
            "verify_backup": {"schedule": "30 6 * * *"},
        },
    },
}
SCHEDULES = {
    "streamflix_full_backup": "0 2 * * *",
    "streamflix_verify_backup": "0 5 * * *",
    "library_full_backup": "30 3 * * *",
    "library_verify_backup": "30 6 * * *",
}
# Everything that the rules forbid, in one file.
FORBIDDEN = """
from datetime import datetime, timedelta
from airflow.sdk import DAG, task, teardown

with DAG("bad", schedule="0 2 * * *", start_date=datetime(2020, 1, 1), catchup=True, fail_fast=True,
         max_consecutive_failed_dag_runs=3):
    @task
    def work(): ...

    @task(trigger_rule="all_done")
    def tell(): ...

    @teardown(on_failure_fail_dagrun=True)
    @task
    def clean(): ...

    work() >> [tell(), clean()]
"""
LEFT_OUT = ("__pycache__", ".airflowignore", "__main__.py")  # the last would end Airflow's process at once
ALWAYS_RUN = {"all_done", "all_done_min_one_success", "all_done_setup_success", "always", "one_done", "none_failed"}


def broken_rules(dag: Dag) -> Iterator[str]:
    """What would make a backup DAG silent, or a run green over a failure."""
    if dag.paused_upon_creation is not False:
        yield "paused when new"
    if dag.start_date is not None:
        yield "has a start date: it fires when unpaused"
    if dag.catchup or dag.max_active_runs != 1:
        yield "runs of the past, or several at once"
    if dag.fail_fast:
        yield "fail_fast: skipped leaves are green"
    if dag.max_failed_runs:
        yield "pauses itself after failures"
    if "MailNotifier" not in dag.on_success or "MailNotifier" not in dag.on_failure:
        yield "nobody hears of its end"
    if not dag.doc or "<cluster>" in dag.doc:
        yield "tells the on-call nothing"
    if "pgbackup" not in dag.tags:
        yield "not found by its tag"
    for task in dag.tasks:
        if task.retries < 1 or not task.has_retry_policy:
            yield f"{task.id}: no retry or no retry policy"
        if task.owner != "dba" or task.pool != "default_pool":
            yield f"{task.id}: owner {task.owner}, pool {task.pool}"
        if task.decides_run:
            yield f"{task.id}: a teardown that decides the run's state"
        if not task.is_teardown and not task.downstream and task.trigger_rule in ALWAYS_RUN:
            yield f"{task.id}: a leaf that is green after a failure"


def ask(what: str, home: Path, **settings: Path) -> Any:
    """Run a fresh Airflow process over a folder; return what it says."""
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(settings.get("dags", ROOT / "dags")),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(settings.get("plugins", ROOT / "plugins")),
        "PGBACKUP_CONFIG": str(settings.get("config", home / "nothing.yaml")),
    }
    argv = [sys.executable, "-m", "tests.airflow_e2e.bag", what]
    done = subprocess.run(argv, env=environment, cwd=home, capture_output=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def written(folder: Path, name: str, document: Any) -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Everything that these tests ask Airflow; two processes at a time, each question once."""
    folder = tmp_path_factory.mktemp("airflow")
    good = written(folder, "protocol.yaml", DOCUMENT)
    misspelt = {**DOCUMENT, "clusters": {"streamflix": {**DOCUMENT["clusters"]["streamflix"], "full_bakup": {}}}}
    bad_dags = folder / "bad_dags"
    bad_dags.mkdir()
    written(bad_dags, "bad.py", FORBIDDEN)
    unguarded = folder / "plugins"
    shutil.copytree(ROOT / "plugins", unguarded, ignore=shutil.ignore_patterns(*LEFT_OUT))
    questions: dict[str, dict[str, Path]] = {
        "dags": {"config": good},
        "dags without configuration": {},
        "dags with a misspelt key": {"config": written(folder, "misspelt.yaml", misspelt)},
        "dags that break the rules": {"dags": bad_dags},
        "plugins": {},
        "plugins without .airflowignore": {"plugins": unguarded},
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures: dict[str, Future[Any]] = {
            question: pool.submit(ask, question.split()[0], folder / f"home{number}", **settings)
            for number, (question, settings) in enumerate(questions.items())
        }
        yield lambda question: futures[question].result()


@pytest.fixture(scope="module")
def bag(answers: Callable[[str], Any]) -> Bag:
    return Bag.of(answers("dags"))


def test_every_cluster_has_its_dags_and_nothing_else_is_there(bag: Bag) -> None:
    assert bag.import_errors == {}
    assert {dag.id: dag.schedule for dag in bag.dags} == SCHEDULES


def test_no_dag_is_silent_or_green_over_a_failure(bag: Bag) -> None:
    assert {dag.id: list(broken_rules(dag)) for dag in bag.dags} == {dag_id: [] for dag_id in SCHEDULES}


def test_the_rules_see_what_they_forbid(answers: Callable[[str], Any]) -> None:
    bag = Bag.of(answers("dags that break the rules"))
    assert bag.import_errors == {}
    found = " | ".join(problem for dag in bag.dags for problem in broken_rules(dag))
    for expected in (
        "paused when new",
        "start date",
        "runs of the past",
        "fail_fast",
        "pauses itself",
        "nobody hears",
        "tells the on-call nothing",
        "by its tag",
        "work: no retry",
        "work: owner",
        "tell: a leaf that is green",
        "clean: a teardown that decides",
    ):
        assert expected in found


def test_a_full_backup_that_takes_too_long_raises_an_alert(bag: Bag) -> None:
    deadlines = {dag.id: dag.deadlines for dag in bag.dags if dag.id.endswith("_full_backup")}
    assert deadlines == {"streamflix_full_backup": [3600.0], "library_full_backup": [1200.0]}


def test_the_restore_test_can_be_asked_for_one_copy(bag: Bag) -> None:
    params = {dag.id: dag.params for dag in bag.dags}
    assert params["streamflix_verify_backup"] == ["backup_id", "repository"]
    assert params["streamflix_full_backup"] == []


def test_a_missing_configuration_is_an_import_error_that_says_what_to_do(answers: Callable[[str], Any]) -> None:
    bag = Bag.of(answers("dags without configuration"))
    assert bag.dags == []
    assert set(bag.import_errors) == {path.name for path in (ROOT / "dags").glob("*.py")}
    for text in bag.import_errors.values():
        assert "there is no configuration at" in text
        assert "nothing.yaml" in text
        assert "PGBACKUP_CONFIG" in text


def test_a_misspelt_key_is_an_import_error_with_its_place_and_the_nearest_key(answers: Callable[[str], Any]) -> None:
    bag = Bag.of(answers("dags with a misspelt key"))
    assert bag.dags == []
    assert set(bag.import_errors) == {path.name for path in (ROOT / "dags").glob("*.py")}
    for text in bag.import_errors.values():
        assert "misspelt.yaml" in text
        assert "clusters.streamflix.full_bakup" in text
        assert "full_backup" in text


def test_the_plugin_loader_leaves_our_packages_alone(answers: Callable[[str], Any]) -> None:
    assert answers("plugins") == {"strays": [], "errors": {}}


def test_without_airflowignore_the_plugin_loader_executes_them(answers: Callable[[str], Any]) -> None:
    strays = answers("plugins without .airflowignore")["strays"]
    assert {"settings", "errors", "manifest"} <= set(strays)

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

from tests.airflow_e2e.bag import Bag, Dag, Task
from tests.support.source import ROOT

pytestmark = pytest.mark.airflow

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "catalog": {"airflow_conn_id": "pgbackup_catalog"},
    "encryption": {"enabled": False},
    "mail": {"sender": "backup@example.com", "recipients": ["dba@example.com"]},
    "repositories": {name: {"s3": {"bucket": "b", "airflow_conn_id": name}} for name in ("eu", "us")},
    "clusters": {
        "streamflix": {"connection": {"airflow_conn_id": "streamflix"}},
        "library": {
            "connection": {"airflow_conn_id": "library"},
            "full_backup": {"schedule": "30 3 * * *", "due": "20 min"},
            "verify_backup": {"schedule": "30 6 * * *"},
            "wal": {"watch": "*/2 * * * *"},
            "drill": {"schedule": "0 9 * * 6", "due": "30 min"},
            "copies": {"schedule": "*/3 * * * *"},
            "audit": {"schedule": "0 9 * * 1"},
            "reviews": {"weekly": "0 9 * * 2", "monthly": "0 9 3 * *"},
        },
    },
}
SCHEDULES: dict[str, str | None] = {
    "streamflix_full_backup": "0 2 * * *",
    "streamflix_incremental_backup": "0 */6 * * *",
    "streamflix_verify_backup": "0 5 * * *",
    "library_full_backup": "30 3 * * *",
    "library_incremental_backup": "0 */6 * * *",
    "library_verify_backup": "30 6 * * *",
    "streamflix_wal_watch": "*/5 * * * *",
    "library_wal_watch": "*/2 * * * *",
    "streamflix_recovery_drill": "0 6 1 1,4,7,10 *",
    "library_recovery_drill": "0 9 * * 6",
    "streamflix_quarterly_audit": "0 8 * 1,4,7,10 MON#1",
    "library_quarterly_audit": "0 9 * * 1",
    "streamflix_weekly_review": "0 8 * * 1",
    "library_weekly_review": "0 9 * * 2",
    "streamflix_monthly_review": "0 8 2 * *",
    "library_monthly_review": "0 9 3 * *",
    **{
        f"{cluster}_{name}": schedule
        for cluster in ("streamflix", "library")
        for name, schedule in {
            "daily_expiry": "0 7 * * *",
            "weekly_rotation": "0 4 * * 0",
            "monthly_rotation": "0 5 1 * *",
        }.items()
    },
    "streamflix_copy_wal": "*/5 * * * *",
    "library_copy_wal": "*/3 * * * *",
    "streamflix_recover_point_in_time": None,
    "library_recover_point_in_time": None,
    "streamflix_recover_database": None,
    "library_recover_database": None,
    "streamflix_recover_table": None,
    "library_recover_table": None,
    "streamflix_disaster_recovery": None,
    "library_disaster_recovery": None,
}
FLEET: dict[str, Any] = {
    **DOCUMENT,
    "capture_pool": "captures",
    "clusters": {
        f"c{number}": {
            "connection": {"airflow_conn_id": f"c{number}"},
            "queue": f"host{number % 7}",
            "executor": "LocalExecutor" if number % 2 else None,
        }
        for number in range(100)
    },
}
HTTP = "airflow.providers.http.notifications.http.HttpNotifier"
# Everything that the rules forbid; Airflow itself refuses fail_fast together with all_done.
FORBIDDEN = """
from datetime import datetime
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, task, teardown

with DAG("bad", schedule="0 2 * * *", start_date=datetime(2020, 1, 1), catchup=True, max_consecutive_failed_dag_runs=3):
    @task
    def work(): ...

    @task(trigger_rule="all_done")
    def tell(): ...

    @teardown(on_failure_fail_dagrun=True)
    @task
    def clean(): ...

    work() >> [tell(), clean()]

with DAG("worse", fail_fast=True):
    @task(pool="slow")
    def work(): ...

    work() >> ApprovalOperator(task_id="ask", subject="Really?", defaults="Approve")
"""
LEFT_OUT = ("__pycache__", ".airflowignore", "__main__.py")  # the last would end Airflow's process at once
NOTIFIERS = {
    "MailNotifier",
    "WatchNotifier",
    "RecoveryMail",
    "DisasterMail",
    "DrillMail",
    "RotationMail",
    "AuditMail",
    "ReviewMail",
    "LeftToTheWatch",
}
ALWAYS_RUN = {"all_done", "all_done_min_one_success", "all_done_setup_success", "always", "one_done", "none_failed"}

# What would make a backup silent, or a run green over a failure: what it is called, and how it is seen.
DAG_RULES: dict[str, Callable[[Dag], bool]] = {
    "paused when new": lambda dag: dag.paused_upon_creation is not False,
    "fires when unpaused": lambda dag: dag.start_date is not None,
    "runs for the past": lambda dag: dag.catchup,
    "several runs at once": lambda dag: dag.max_active_runs != 1,
    "green after a failure, by fail_fast": lambda dag: dag.fail_fast,
    "pauses itself": lambda dag: dag.max_failed_runs != 0,
    "nobody hears of success": lambda dag: not NOTIFIERS & set(dag.on_success),
    "nobody hears of failure": lambda dag: not NOTIFIERS & set(dag.on_failure),
    "says nothing to the on-call": lambda dag: not dag.doc or "<cluster>" in dag.doc,
    "of people alone, and others may start it": lambda dag: dag.schedule is None and dag.run_types != ["manual"],
    "not found by its tag": lambda dag: "pgbackup" not in dag.tags,
}
TASK_RULES: dict[str, Callable[[Task], bool]] = {
    "is not tried again": lambda task: task.retries < 1,
    "has no retry policy": lambda task: not task.has_retry_policy,
    "has no owner": lambda task: task.owner != "dba",
    "waits for a pool": lambda task: task.pool != "default_pool",
    "decides the run as a teardown": lambda task: task.decides_run,
    "waits for an answer for ever": lambda task: task.asks and task.answer_limit is None,
    "answers itself": lambda task: task.has_default_answer,
    "is green when it was rejected": lambda task: task.skips_when_rejected,
    "is a leaf that is green after a failure": lambda task: (
        not task.is_teardown and not task.downstream and task.trigger_rule in ALWAYS_RUN
    ),
}


def broken_rules(dag: Dag) -> list[str]:
    of_dag = [name for name, is_broken in DAG_RULES.items() if is_broken(dag)]
    of_tasks = [f"{task.id} {name}" for task in dag.tasks for name, is_broken in TASK_RULES.items() if is_broken(task)]
    return of_dag + of_tasks


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
    absent = {**DOCUMENT, "notifiers": [{"class": "airflow.providers.pager.PagerNotifier"}]}
    mute = {**DOCUMENT, "notifiers": [{"class": HTTP, "arguments": {"json": {"text": "a backup failed"}}}]}
    misspelt = {**DOCUMENT, "clusters": {"streamflix": {**DOCUMENT["clusters"]["streamflix"], "full_bakup": {}}}}
    elsewhere = {"library": {**DOCUMENT["clusters"]["library"], "executor": "EdgeExecutor"}}
    unknown = {**DOCUMENT, "clusters": {**DOCUMENT["clusters"], **elsewhere}}
    bad_dags = folder / "bad_dags"
    bad_dags.mkdir()
    written(bad_dags, "bad.py", FORBIDDEN)
    unguarded = folder / "plugins"
    shutil.copytree(ROOT / "plugins", unguarded, ignore=shutil.ignore_patterns(*LEFT_OUT))
    questions: dict[str, dict[str, Path]] = {
        "dags": {"config": good},
        "dags of a fleet": {"config": written(folder, "fleet.yaml", FLEET)},
        "dags without configuration": {},
        "dags with a misspelt key": {"config": written(folder, "misspelt.yaml", misspelt)},
        "dags with an unknown executor": {"config": written(folder, "unknown.yaml", unknown)},
        "dags with a notifier that is not installed": {"config": written(folder, "absent.yaml", absent)},
        "dags with a notifier that says nothing": {"config": written(folder, "mute.yaml", mute)},
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
    assert {dag.id: broken_rules(dag) for dag in bag.dags} == {dag_id: [] for dag_id in SCHEDULES}


def test_the_rules_see_what_they_forbid(answers: Callable[[str], Any]) -> None:
    bag = Bag.of(answers("dags that break the rules"))
    assert bag.import_errors == {}
    found = [broken for dag in bag.dags for broken in broken_rules(dag)]
    for name in (*DAG_RULES, *TASK_RULES):
        assert any(broken.endswith(name) for broken in found), name


def test_a_fleet_has_all_dags_of_each_cluster_and_each_runs_where_its_files_are(
    answers: Callable[[str], Any],
) -> None:
    bag = Bag.of(answers("dags of a fleet"))
    assert bag.import_errors == {}
    procedures = {dag_id.removeprefix("library_") for dag_id in SCHEDULES if dag_id.startswith("library_")}
    wanted = {f"{name}_{procedure}": cluster for name, cluster in FLEET["clusters"].items() for procedure in procedures}
    assert len(bag.dags) == len(wanted)
    tasks = {dag.id: {(task.queue, task.executor) for task in dag.tasks} for dag in bag.dags}
    assert tasks == {dag_id: {(cluster["queue"], cluster["executor"])} for dag_id, cluster in wanted.items()}


def test_captures_alone_wait_for_the_pool_of_the_fleet(answers: Callable[[str], Any]) -> None:
    bag = Bag.of(answers("dags of a fleet"))
    waiting = {(dag.id.partition("_")[2], task.id) for dag in bag.dags for task in dag.tasks if task.pool == "captures"}
    assert waiting == {("full_backup", "backup"), ("incremental_backup", "backup")}
    assert {task.pool for dag in bag.dags for task in dag.tasks} == {"captures", "default_pool"}


def test_an_executor_that_airflow_does_not_have_costs_no_other_cluster_its_dags(answers: Callable[[str], Any]) -> None:
    bag = Bag.of(answers("dags with an unknown executor"))
    assert {dag.id for dag in bag.dags} == {dag_id for dag_id in SCHEDULES if dag_id.startswith("streamflix_")}
    assert all("'EdgeExecutor', which is not available" in text for text in bag.import_errors.values())
    assert set(bag.import_errors) == {path.name for path in (ROOT / "dags").glob("*.py")}


def test_a_full_backup_that_takes_too_long_raises_an_alert(bag: Bag) -> None:
    deadlines = {dag.id: dag.deadlines for dag in bag.dags if dag.id.endswith("_full_backup")}
    assert deadlines == {"streamflix_full_backup": [3600.0], "library_full_backup": [1200.0]}


def test_a_drill_that_takes_too_long_raises_an_alert_and_any_scenario_can_be_asked_for(bag: Bag) -> None:
    drills = {dag.id: (dag.deadlines, dag.params) for dag in bag.dags if dag.id.endswith("_recovery_drill")}
    assert drills == {
        "streamflix_recovery_drill": ([14400.0], ["scenarios"]),
        "library_recovery_drill": ([1800.0], ["scenarios"]),
    }


def test_the_audit_runs_on_the_first_monday_of_each_quarter(bag: Bag) -> None:
    (dag,) = [dag for dag in bag.dags if dag.id == "streamflix_quarterly_audit"]
    days = ["2026-01-05", "2026-04-06", "2026-07-06", "2026-10-05", "2027-01-04"]
    assert dag.next_runs == [f"{day} Mon 08:00" for day in days]


def test_todays_keys_are_tried_every_week(bag: Bag) -> None:
    rotations = [dag for dag in bag.dags if dag.id.endswith("_weekly_rotation")]
    assert all("check_keys" in {task.id for task in dag.tasks} for dag in rotations)


def test_a_watch_that_hangs_does_not_keep_the_next_one_from_looking(bag: Bag) -> None:
    watches = [dag for dag in bag.dags if dag.id.endswith("_wal_watch")]
    assert [dag.run_limit for dag in watches] == [600.0, 600.0]
    assert [task.time_limit for dag in watches for task in dag.tasks] == [180.0, 180.0]


def test_the_restore_test_can_be_asked_for_one_copy(bag: Bag) -> None:
    params = {dag.id: dag.params for dag in bag.dags}
    assert params["streamflix_verify_backup"] == ["backup_id", "repository"]
    assert params["streamflix_full_backup"] == []


def test_a_disaster_recovery_asks_twice_and_each_phase_has_its_minutes(bag: Bag) -> None:
    (dag,) = [dag for dag in bag.dags if dag.id == "library_disaster_recovery"]
    chain = {task.id: task.downstream for task in dag.tasks}
    one, order = "assess_scope", []
    while chain[one]:
        order.append(one)
        (one,) = chain[one]
    assert [*order, one] == list(chain), "one after the other, and no other way around an approval"
    assert order[3] == "approve"
    assert order[-4:] == ["approve_switch", "switch", "monitor", "trigger_fresh_base"]
    assert [limit / 60 for limit in dag.deadlines] == [15, 45, 165, 225, 240]


def test_a_cluster_is_replaced_after_an_approval_of_its_own(bag: Bag) -> None:
    (dag,) = [dag for dag in bag.dags if dag.id == "library_recover_point_in_time"]
    order = ["plan", "approve", "recover", "plan_switch", "approve_switch", "switch", "fresh_base", "report"]
    assert {task.id: task.downstream for task in dag.tasks} == {
        one: [after] if after else [] for one, after in zip(order, [*order[1:], None], strict=True)
    }


def test_a_change_of_what_is_there_waits_for_an_approval_of_its_own(bag: Bag) -> None:
    chains = {dag.id: {task.id: task.downstream for task in dag.tasks} for dag in bag.dags}
    for deed, dag_id in (("cutover", "library_recover_database"), ("put", "library_recover_table")):
        tasks = chains[dag_id]
        assert tasks["approve"] == ["recover"]
        assert tasks["recover"] == [f"plan_{deed}"]
        assert tasks[f"plan_{deed}"] == [f"approve_{deed}"]
        assert tasks[f"approve_{deed}"] == [deed]
        assert tasks[deed] == ["report"]


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


def test_a_notifier_that_cannot_tell_an_alert_is_an_import_error(answers: Callable[[str], Any]) -> None:
    """Not a surprise on the day of the first alert."""
    for fault, words in (
        ("is not installed", ("notifiers.0.class", "airflow.providers.pager", "is its provider installed")),
        ("says nothing", ("notifiers.0.arguments", "nothing of the message is in them", "{{ subject }}")),
    ):
        bag = Bag.of(answers(f"dags with a notifier that {fault}"))
        assert bag.dags == []
        for text in bag.import_errors.values():
            assert all(word in text for word in words)


def test_the_plugin_loader_leaves_our_packages_alone(answers: Callable[[str], Any]) -> None:
    assert answers("plugins") == {"strays": [], "errors": {}}


def test_without_airflowignore_the_plugin_loader_executes_them(answers: Callable[[str], Any]) -> None:
    strays = answers("plugins without .airflowignore")["strays"]
    assert {"settings", "errors", "manifest"} <= set(strays)

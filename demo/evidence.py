"""What the demo proves, followed in Airflow: a night and an incremental, each restored and compared; the watch."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo.board import Row, board, console
from demo.config import CLUSTER
from demo.layout import Layout
from demo.rest import FINAL, Airflow, AirflowError

BACKUP_DAG = f"{CLUSTER}_full_backup"
INCREMENTAL_DAG = f"{CLUSTER}_incremental_backup"
VERIFY_DAG = f"{CLUSTER}_verify_backup"
WATCH_DAG = f"{CLUSTER}_wal_watch"
PATIENCE = 15 * 60.0
LOG_LINES = 40


class NotProvedError(Exception):
    """The backup failed, or was not found equal to its source; the message says what and where."""


def prove(airflow: Airflow, layout: Layout) -> None:
    """Make backups, verify them, run the watch, print the evidence; raises NotProvedError or AirflowError."""
    started = datetime.fromtimestamp(layout.pid_file.stat().st_mtime, UTC)
    airflow.wait_for_dags(BACKUP_DAG, INCREMENTAL_DAG, VERIFY_DAG, WATCH_DAG, parsed_since=started, within=60)
    made = [
        *verified(airflow, layout, BACKUP_DAG, {"full", "base"}),
        *verified(airflow, layout, INCREMENTAL_DAG, {"incremental"}),
    ]
    follow(airflow, WATCH_DAG, airflow.trigger(WATCH_DAG))
    console.print("[bold]Evidence[/]")
    for backup_id in made:
        show(pgbackup(layout, "show", backup_id), layout)
    show_reach(pgbackup(layout, "wal", "status"), pgbackup(layout, "plan-recovery", "--to", "latest"))


def verified(airflow: Airflow, layout: Layout, dag_id: str, kinds: set[str]) -> list[str]:
    """Run a DAG that takes backups of these kinds, and their verifications; return the backups' ids."""
    known = {backup["id"] for backup in catalog(layout)}
    follow(airflow, dag_id, airflow.trigger(dag_id))
    made = [backup for backup in catalog(layout) if backup["id"] not in known]
    if {backup["kind"] for backup in made} != kinds:
        raise NotProvedError(f"{dag_id} succeeded, but the catalog does not hold a new {' and a new '.join(kinds)}")
    for backup in made:
        follow(airflow, VERIFY_DAG, verification_run(airflow, backup["id"]))
    return [backup["id"] for backup in made]


def follow(airflow: Airflow, dag_id: str, run_id: str, *, approve: str = "") -> None:
    """Show a run's tasks until it is over; raises NotProvedError with the failed tasks' logs.

    With the name of a cluster, what waits for an approval gets it, with that name typed in.
    """
    until = time.monotonic() + PATIENCE
    with board(f"{dag_id}  {run_id}") as shown:
        while True:
            state = airflow.run(dag_id, run_id)["state"]
            tasks = airflow.tasks(dag_id, run_id)
            shown.update(Row(name_of(task), task["state"] or "waiting", task["duration"]) for task in tasks)
            if state in FINAL:
                break
            for task in tasks:
                if approve and task["state"] == "awaiting_input":
                    airflow.approve(task, approve)
            if time.monotonic() > until:
                raise NotProvedError(f"{dag_id} {run_id} is still {state} after {PATIENCE:.0f} s")
            time.sleep(0.5)
    if state != "success":
        raise NotProvedError("\n".join([f"{dag_id} {run_id} {state}", *failures(airflow, tasks)]))


def name_of(task: dict[str, Any]) -> str:
    """A task instance's name, with what it is mapped to."""
    if task["map_index"] < 0:
        return str(task["task_id"])
    return f"{task['task_id']} [{task['rendered_map_index'] or task['map_index']}]"


def failures(airflow: Airflow, tasks: list[dict[str, Any]]) -> list[str]:
    """The last log lines of each failed task."""
    lines = []
    for task in tasks:
        if task["state"] == "failed":
            lines.append(f"task {name_of(task)}, try {task['try_number']}, ended with:")
            lines += [f"  {line}" for line in list(airflow.log(task))[-LOG_LINES:]]
    return lines


def verification_run(airflow: Airflow, backup_id: str) -> str:
    """The run that verifies a backup; it may be queued a moment after the backup's own run has ended."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if runs := airflow.runs(VERIFY_DAG, f"verify__{backup_id}__"):
            return runs[-1]
        time.sleep(0.5)
    raise AirflowError(f"no run of {VERIFY_DAG} for {backup_id} within 60 s")


def catalog(layout: Layout) -> list[dict[str, Any]]:
    """Every backup in the catalog."""
    backups: list[dict[str, Any]] = pgbackup(layout, "list")
    return backups


def pgbackup(layout: Layout, *arguments: str) -> Any:
    """What a command of ``pgbackup`` prints with ``--json``."""
    command = [str(Path(sys.executable).with_name("pgbackup")), *arguments, "--json"]
    environment = os.environ | {"PGBACKUP_CONFIG": str(layout.protocol)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise NotProvedError(f"{' '.join(command)} ended with exit status {done.returncode}: {said}")
    return json.loads(done.stdout)


def show(backup: dict[str, Any], layout: Layout) -> None:
    """Print one backup's evidence; raises NotProvedError unless a copy is verified."""
    seconds = seconds_between(backup["started_at"], backup["finished_at"])
    megabytes = backup["bytes"] / 1e6
    lines = [
        ("backup", f"{backup['id']}{f' ({method})' if (method := backup['method']) else ''}"),
        ("stored", f"{megabytes:.1f} MB in {seconds:.1f} s ({megabytes / max(seconds, 0.001):.0f} MB/s)"),
        ("files", str(layout.home / "backups" / backup["kind"] / backup["id"])),
    ]
    lines += [
        (f"copy {copy['repository']}", f"{copy['state']} {copy['verified_at'] or ''}") for copy in backup["copies"]
    ]
    for attempt in backup["verifications"]:
        lines += [
            (
                f"  {'✓' if finding['ok'] else '✗'}",
                f"{finding['name']}: {finding['detail']} ({finding['seconds']:.1f} s)",
            )
            for finding in attempt["findings"]
        ]
        lines.append(
            ("verdict", f"{attempt['verdict'] or 'none'} after {attempt['seconds']:.1f} s {attempt['reason']}")
        )
    print_lines(lines)
    if not any(copy["verified_at"] for copy in backup["copies"]):
        raise NotProvedError(f"{backup['id']} has no verified copy")


def show_reach(wal: dict[str, Any], plan: dict[str, Any]) -> None:
    """Print how the WAL receiver is, and from where to where a recovery reaches."""
    behind = f"{wal['disk_behind_bytes']} bytes behind the server"
    print_lines(
        [
            (
                "receiver",
                f"{'runs' if wal['alive'] else 'does not run'}, {behind}; {', '.join(wal['problems']) or 'no gap'}",
            ),
            ("recovery", f"to the latest from {' + '.join(plan['chain'])}"),
            *(("  WAL", f"{one['start']} to {one['end']} on timeline {one['timeline']}") for one in plan["wal"]),
            ("  predicted", f"{plan['seconds']:.1f} s"),
        ]
    )


def print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print names and values."""
    for name, value in lines:
        console.print(f"{name:14}{value}", markup=False, soft_wrap=True)


def seconds_between(start: str, end: str) -> float:
    """Seconds from one ISO 8601 time to another."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()

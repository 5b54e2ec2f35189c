"""What Airflow makes of DAG files or of the plugins folder, as JSON on standard output.

python -m tests.airflow_e2e.bag dags|plugins

A process of its own, so that Airflow's logging, settings and import hooks stay out of the tests' process; its settings
come from the environment.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What the rules ask of a task."""

    id: str
    owner: str
    pool: str
    queue: str
    executor: str | None
    retries: int
    has_retry_policy: bool
    trigger_rule: str
    time_limit: float | None
    """Seconds that a try may take."""
    is_teardown: bool
    decides_run: bool
    """A teardown whose failure fails the run: then its success hides the failures before it."""
    asks: bool
    """People."""
    answer_limit: float | None
    """Seconds after which nobody is waited for."""
    has_default_answer: bool
    skips_when_rejected: bool
    downstream: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dag:
    """What the rules ask of a DAG."""

    id: str
    schedule: str | None
    start_date: str | None
    catchup: bool
    max_active_runs: int
    paused_upon_creation: bool | None
    fail_fast: bool
    max_failed_runs: int
    tags: list[str]
    doc: str
    on_success: list[str]
    on_failure: list[str]
    deadlines: list[float]
    """Seconds after a run is queued."""
    params: list[str]
    run_limit: float | None
    """Seconds that a run may take."""
    run_types: list[str] | None
    """Who may start a run; None: everybody."""
    next_runs: list[str]
    """When the scheduler would start the first runs after the beginning of 2026."""
    tasks: list[Task] = field(default_factory=list)


@dataclass(frozen=True)
class Bag:
    """A folder of DAG files."""

    dags: list[Dag]
    import_errors: dict[str, str]

    @classmethod
    def of(cls, document: dict[str, Any]) -> Bag:
        """Read it back from JSON."""
        dags = [Dag(**{**dag, "tasks": [Task(**task) for task in dag["tasks"]]}) for dag in document["dags"]]
        return cls(dags, document["import_errors"])


def read_bag() -> Bag:
    """Parse the DAGs folder as the DAG processor does, serialization included."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    found = DagBag()
    timetables = {
        name: DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable for name, dag in found.dags.items()
    }
    dags = sorted(found.dags.values(), key=lambda dag: str(dag.dag_id))
    return Bag(
        [_dag(dag, timetables[dag.dag_id]) for dag in dags],
        {Path(name).name: text for name, text in found.import_errors.items()},
    )


def _dag(dag: Any, timetable: Any) -> Dag:
    return Dag(
        id=dag.dag_id,
        schedule=getattr(dag.schedule, "expression", dag.schedule),
        start_date=dag.start_date and dag.start_date.isoformat(),
        catchup=dag.catchup,
        max_active_runs=dag.max_active_runs,
        paused_upon_creation=dag.is_paused_upon_creation,
        fail_fast=dag.fail_fast,
        max_failed_runs=dag.max_consecutive_failed_dag_runs,
        tags=sorted(dag.tags),
        doc=dag.doc_md or "",
        on_success=_names(dag.on_success_callback),
        on_failure=_names(dag.on_failure_callback),
        deadlines=[alert.interval.total_seconds() for alert in dag.deadline or ()],
        params=sorted(dag.params),
        run_limit=dag.dagrun_timeout and dag.dagrun_timeout.total_seconds(),
        run_types=None if dag.allowed_run_types is None else sorted(kind.value for kind in dag.allowed_run_types),
        next_runs=_next_runs(timetable),
        tasks=[_task(task) for task in dag.tasks],
    )


def _next_runs(timetable: Any) -> list[str]:
    import pendulum
    from airflow.timetables.base import DataInterval, TimeRestriction

    found: list[str] = []
    last = DataInterval.exact(pendulum.datetime(2026, 1, 1))
    while len(found) < 5:
        after = timetable.next_dagrun_info(
            last_automated_data_interval=last,
            restriction=TimeRestriction(earliest=None, latest=None, catchup=True),
        )
        if after is None:
            break
        found.append(f"{after.run_after:%Y-%m-%d %a %H:%M}")
        last = after.data_interval
    return found


def _task(task: Any) -> Task:
    from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator

    return Task(
        id=task.task_id,
        owner=task.owner,
        pool=task.pool,
        queue=task.queue,
        executor=task.executor,
        retries=task.retries,
        has_retry_policy=task.retry_policy is not None,
        trigger_rule=str(task.trigger_rule.value),
        time_limit=task.execution_timeout and task.execution_timeout.total_seconds(),
        is_teardown=task.is_teardown,
        decides_run=task.is_teardown and task.on_failure_fail_dagrun,
        asks=isinstance(task, HITLOperator),
        answer_limit=limit.total_seconds() if (limit := getattr(task, "response_timeout", None)) else None,
        has_default_answer=getattr(task, "defaults", None) is not None,
        skips_when_rejected=isinstance(task, ApprovalOperator) and not task.fail_on_reject,
        downstream=sorted(task.downstream_task_ids),
    )


def _names(callbacks: Any) -> list[str]:
    several = callbacks if isinstance(callbacks, list) else [callbacks]
    return [type(callback).__name__ for callback in several if callback is not None]


def read_plugins() -> dict[str, Any]:
    """Let Airflow load its plugins; say what it executed of the folder under a name that is not the module's own."""
    from airflow import plugins_manager, settings

    folder = Path(str(settings.PLUGINS_FOLDER)).resolve()
    before = set(sys.modules)
    plugins_manager.ensure_plugins_loaded()
    strays = []
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and folder in Path(file).resolve().parents:
            module = ".".join(Path(file).resolve().relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            if name != module:
                strays.append(name)
    errors = {Path(path).name: str(error) for path, error in plugins_manager.get_import_errors().items()}
    return {"strays": sorted(strays), "errors": errors}


def main(what: str) -> None:
    """Print it; whatever else would print goes to standard error."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer = asdict(read_bag()) if what == "dags" else read_plugins()
    output.write(json.dumps(answer))
    output.close()


if __name__ == "__main__":
    main(sys.argv[1])

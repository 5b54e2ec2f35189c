"""What all DAGs of the protocol have in common, so that a DAG file is wiring only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG, Asset, BaseNotifier, CronTriggerTimetable
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.definitions.param import ParamsDict

from pgbackup.assembly import config_path, load_settings
from pgbackup.domain.settings import Settings
from pgbackup_airflow.channels import channels
from pgbackup_airflow.failures import RETRY_POLICY
from pgbackup_airflow.notifier import MailNotifier

OWNER = "dba"

DEFAULT_ARGS: dict[str, Any] = {
    "owner": OWNER,
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_policy": RETRY_POLICY,
}


def settings() -> Settings:
    """The configuration; a DAG file without one, or with a wrong one, becomes an import error that says what to do.

    Read once, and again when the file has changed: a DAG file asks for it with every cluster.
    """
    path = config_path()
    version = path.stat() if path.exists() else None
    return _read(path, (version.st_ino, version.st_mtime_ns, version.st_size) if version else None)


@lru_cache(maxsize=1)
def _read(path: Path, version: tuple[int, ...] | None) -> Settings:  # noqa: ARG001 - what tells one reading from another
    found = load_settings(path)
    channels(found)
    return found


def backup_asset(cluster: str, kind: str) -> Asset:
    """The asset that a captured backup updates, for other teams' DAGs; nothing of ours is scheduled on it."""
    return Asset(name=f"pgbackup/{cluster}/{kind}", uri=f"x-pgbackup://{cluster}/{kind}", group="pgbackup")


@contextmanager
def protocol_dag(
    procedure: str,
    cluster: str,
    *,
    schedule: str | None,
    due: timedelta | None,
    doc: str | None,
    params: Mapping[str, Any] | None = None,
    timeout: timedelta | None = None,
    notifier: Callable[..., BaseNotifier] = MailNotifier,
    deadlines: Sequence[DeadlineAlert] = (),
) -> Iterator[DAG]:
    """Make one cluster's DAG of a procedure, around its tasks.

    Every task of it runs where the cluster's files are: in its queue, by its executor.
    Never paused when new, nothing in the past (it would fire on unpause), one run at a time, ended after ``timeout``;
    without a ``schedule`` it is triggered by people alone. The ``notifier`` hears of every run's end (a mail each), and
    a mail is sent when a run takes longer than ``due``.
    """
    title = procedure.replace("_", " ")
    with DAG(
        f"{cluster}_{procedure}",
        # A plain cron text would run the last time that has just passed as soon as the DAG is new.
        schedule=CronTriggerTimetable(schedule, timezone="UTC", run_immediately=timedelta(0)) if schedule else None,
        catchup=False,
        allowed_run_types=None if schedule else ["manual"],  # type: ignore[list-item]
        max_active_runs=1,
        is_paused_upon_creation=False,
        default_args=DEFAULT_ARGS | _where(cluster),
        tags=["pgbackup", cluster, procedure],
        description=f"{title} of {cluster}",
        doc_md=(doc or "").replace("<cluster>", cluster),
        dagrun_timeout=timeout,
        on_success_callback=notifier(cluster=cluster, procedure=title, succeeded=True),
        on_failure_callback=notifier(cluster=cluster, procedure=title, succeeded=False),
        deadline=[*_deadlines(cluster, title, due), *deadlines],
    ) as dag:
        yield dag
    # Behind the tasks: each would keep, check and serialize a copy. What a run is given reaches them all the same.
    dag.params = ParamsDict(params)


def _where(cluster: str) -> dict[str, str]:
    configured = settings().cluster(cluster)
    place = {"queue": configured.queue, "executor": configured.executor}
    return {name: value for name, value in place.items() if value is not None}  # Airflow has defaults of its own


def _deadlines(cluster: str, title: str, due: timedelta | None) -> list[DeadlineAlert]:
    """The alert of a run that takes too long. It runs in the triggerer, which can read connections."""
    mail = settings().mail
    if due is None or mail is None:
        return []
    allowed = f"{due.total_seconds() / 60:g} minutes"
    body = (
        f"<p>The {title} of {cluster} (run {{{{ dag_run.dag_run_id }}}}, state {{{{ dag_run.state }}}}) was due"
        f" {{{{ deadline.deadline_time }}}}, {allowed} after it was queued.</p>"
        "<p>What it means: until it ends, the last verified backup is what you have (pgbackup list).</p>"
        "<p>What to do: open the run, read the log of the task that is running: it says how far it is and how fast;"
        " look for locks on the server (pg_locks) and for a full disk (pgbackup doctor).</p>"
    )
    return [
        DeadlineAlert(
            name=f"{title} takes longer than {allowed}",
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=due,
            callback=AsyncCallback(
                SmtpNotifier,
                kwargs={
                    "smtp_conn_id": mail.airflow_conn_id,
                    "to": list(mail.recipients),
                    "from_email": mail.sender,
                    "subject": f"[{cluster}] {title}: takes longer than {allowed}",
                    "html_content": body,
                },
            ),
        )
    ]

"""What people hear of a disaster recovery: the report at its end, green or red, and an alert for each late phase."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk import Context
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from pgbackup.assembly import load_settings
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.incident import PHASES, allowed_until
from pgbackup.domain.settings import Settings
from pgbackup.recover.incident import Journal, journal_of
from pgbackup.report.incident import IncidentReport, compose_incident
from pgbackup_airflow.notifier import Notice, run_link
from pgbackup_airflow.recovery.approval import RecoveryMail

_OVER = {"success", "failed"}


def journal_for(settings: Settings, cluster: str, run: Any) -> Journal:
    """Return the journal of a run: named after the cluster, the moment when somebody asked, and the run itself."""
    mark = sha256(str(run.run_id).encode()).hexdigest()[:6]
    return journal_of(settings, f"{cluster}_{run.run_after:%Y%m%d_%H%M%S}_{mark}", lambda: datetime.now(UTC))


def report_on(settings: Settings, cluster: str, run: Any, note: str = "") -> tuple[str, str, str]:
    """Report how far a run came, kept beside its journal; return (subject, Markdown, HTML).

    Raises RefusedError when it has no journal.
    """
    journal = journal_for(settings, cluster, run)
    subject, markdown, html = compose_incident(
        IncidentReport(
            cluster=cluster,
            incident=journal.read(),
            objectives=settings.objectives,
            now=journal.clock(),
            run=f"{run.dag_id} {run.run_id}",
            link=run_link(run.dag_id, str(run.run_id)),
            note=note,
            contacts=settings.contacts,
        )
    )
    journal.keep("report.md", markdown)
    journal.keep("report.html", html)
    return subject, markdown, html


class DisasterMail(RecoveryMail):
    """Writes and mails the incident report at the end of a run, as far as the recovery came."""

    def tell(self, context: Context, notice: Notice) -> None:
        """Send it; a run that declared no incident is told as any other recovery."""
        note = "" if self.succeeded else f"Airflow says: {context.get('reason') or 'failed'}"
        try:
            subject, _, html = report_on(notice.settings, self.cluster, context["dag_run"], note)
        except (RefusedError, KeyError):
            super().tell(context, notice)
        else:
            notice.send(subject, html)


def phase_deadlines(cluster: str, settings: Settings) -> list[DeadlineAlert]:
    """Return an alert for the end of each phase's minutes, and one for the recovery time objective.

    Airflow knows deadlines of runs only: each looks into the journal before it says anything.
    """
    if settings.mail is None:
        return []
    limits = {allowed_until(phase): phase.name for phase in PHASES}
    limits.setdefault(settings.objectives.rto, PHASES[-1].name)
    return [
        DeadlineAlert(
            name=f"{phase} of the disaster recovery is late",
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=allowed,
            callback=AsyncCallback(tell_late_phase, kwargs={"cluster": cluster, "phase": phase}),
        )
        for allowed, phase in limits.items()
    ]


async def tell_late_phase(cluster: str, phase: str, context: Mapping[str, Any]) -> None:
    """Mail that a phase is late, unless it has ended, or the run has: that was mailed. Runs in the triggerer."""
    settings, run = load_settings(), _Run(context["dag_run"])
    if settings.mail is None or run.state in _OVER:
        return
    try:
        incident = journal_for(settings, cluster, run).read()
        timing = next(one for one in incident.timings() if one.phase.name == phase)
        if timing.ended:
            return
        note = f"{phase} is late: it was due {timing.due:%H:%M:%S} UTC"
        _, _, html = report_on(settings, cluster, run, note)
    except RefusedError:
        html = f"<p>No step has begun; open the run: {run_link(run.dag_id, run.run_id)}</p>"
    async with SmtpHook(smtp_conn_id=settings.mail.airflow_conn_id) as smtp:
        await smtp.asend_email_smtp(
            to=list(settings.mail.recipients),
            from_email=settings.mail.sender,
            subject=f"[{cluster}] disaster recovery: {phase} is LATE",
            html_content=html,
        )


class _Run:
    """A run as a deadline's callback is told of it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.dag_id = str(told["dag_id"])
        self.run_id = str(told.get("dag_run_id") or told.get("run_id"))
        self.state = str(told["state"])
        self.run_after = datetime.fromisoformat(str(told["run_after"]))

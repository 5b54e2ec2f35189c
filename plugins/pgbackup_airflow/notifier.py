"""Mail on every completion and failure: what happened, what it means, what to do next, whom to call."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk import BaseNotifier, Context

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Mail
from pgbackup.report.mail import RunReport, compose
from pgbackup_airflow.hook import PgBackupHook


class MailNotifier(BaseNotifier):
    """A DAG's on_success_callback and on_failure_callback. It runs in the DAG processor and reads the catalog."""

    template_fields = ()

    def __init__(self, *, cluster: str, procedure: str, succeeded: bool) -> None:
        super().__init__()
        self.cluster = cluster
        self.procedure = procedure
        self.succeeded = succeeded

    def notify(self, context: Context) -> None:
        """Compose the report of the run and send it to everybody in `mail.recipients`."""
        dag_id, run_id = context["dag"].dag_id, str(context["run_id"])
        hook = PgBackupHook(owner=f"{dag_id}/{run_id}")
        if hook.settings.mail is None:
            self.log.warning("no mail is configured: nobody hears of %s", run_id)
            return
        subject, html = compose(self._report(hook.site(), dag_id, run_id, str(context.get("reason") or "")))
        deliver(hook.settings.mail, subject, html)
        self.log.info("mailed %r", subject)

    def _report(self, site: Site, dag_id: str, run_id: str, reason: str) -> RunReport:
        known: dict[str, Any] = {}
        try:
            known["backups"] = site.catalog.backups_of(site.owner)
            known["verifications"] = site.catalog.verifications_of(site.owner)
        except PgBackupError as error:
            reason = f"{reason}; the catalog does not answer: {error.message}"
        return RunReport(
            cluster=self.cluster,
            procedure=self.procedure,
            succeeded=self.succeeded,
            run=f"{dag_id} {run_id}",
            link=run_link(dag_id, run_id),
            reason=reason,
            contacts=site.settings.contacts,
            **known,
        )


def deliver(mail: Mail, subject: str, html: str) -> None:
    """Send a mail to everybody who is to hear of it; raises what the SMTP server makes of it."""
    with SmtpHook(smtp_conn_id=mail.airflow_conn_id) as smtp:
        smtp.send_email_smtp(to=list(mail.recipients), from_email=mail.sender, subject=subject, html_content=html)


def run_link(dag_id: str, run_id: str) -> str:
    """Return where a run is seen."""
    base = os.environ.get("AIRFLOW__API__BASE_URL", "http://localhost:8080").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"

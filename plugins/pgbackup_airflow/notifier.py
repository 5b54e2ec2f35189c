"""A message on every completion and failure: what happened, what it means, what to do next, whom to call."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier, Context

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.model import Message
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Settings
from pgbackup.report.mail import RunReport, compose
from pgbackup_airflow.channels import channels, send
from pgbackup_airflow.hook import PgBackupHook


@dataclass(frozen=True)
class Notice:
    """A run that there is something to tell of, and how to tell it."""

    cluster: str
    dag_id: str
    run_id: str
    hook: PgBackupHook
    alarming: bool

    @property
    def settings(self) -> Settings:
        """The configuration."""
        return self.hook.settings

    @property
    def run(self) -> str:
        """What people call the run."""
        return f"{self.dag_id} {self.run_id}"

    @property
    def link(self) -> str:
        """Where the run is seen."""
        return run_link(self.dag_id, self.run_id)

    def send(self, subject: str, html: str) -> tuple[str, ...]:
        """Tell everybody, now or later: return the ways that did not take it now; see channels.send."""
        return send(self.hook.site(), Message(self.cluster, subject, html, self.link), alarming=self.alarming)


def run_link(dag_id: str, run_id: str) -> str:
    """Return where a run is seen."""
    base = os.environ.get("AIRFLOW__API__BASE_URL", "http://localhost:8080").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


class ProtocolNotifier(BaseNotifier):
    """A DAG's on_success_callback and on_failure_callback, as protocol_dag makes them; runs in the DAG processor."""

    template_fields = ()

    def __init__(self, *, cluster: str, procedure: str, succeeded: bool | None) -> None:
        super().__init__()
        self.cluster = cluster
        self.procedure = procedure
        self.succeeded = succeeded

    def notify(self, context: Context) -> None:
        """Tell it by every way that is configured."""
        dag_id, run_id = context["dag"].dag_id, str(context["run_id"])
        # Not the cluster's: the DAG processor has the connections of catalog and mail, and need not have others.
        hook = PgBackupHook(owner=f"{dag_id}/{run_id}", cluster=None)
        alarming = self.succeeded is not True
        if any(alarming or one.everything for one in channels(hook.settings)):
            self.tell(context, Notice(self.cluster, dag_id, run_id, hook, alarming))
        else:
            self.log.warning("neither mail nor notifier is configured: nobody hears of %s", run_id)

    def tell(self, context: Context, notice: Notice) -> None:
        """Compose what there is to tell, and send it."""
        raise NotImplementedError


class MailNotifier(ProtocolNotifier):
    """Mails the end of every run, with what the catalog knows of it."""

    def tell(self, context: Context, notice: Notice) -> None:
        """Send the report of the run."""
        site = notice.hook.site()
        notice.send(*compose(self._report(site, notice, str(context.get("reason") or ""))))

    def _report(self, site: Site, notice: Notice, reason: str) -> RunReport:
        known: dict[str, Any] = {}
        try:
            known["backups"] = site.catalog.backups_of(site.owner)
            known["verifications"] = site.catalog.verifications_of(site.owner)
        except PgBackupError as error:
            reason = f"{reason}; the catalog does not answer: {error.message}"
        return RunReport(
            cluster=self.cluster,
            procedure=self.procedure,
            succeeded=bool(self.succeeded),
            run=notice.run,
            link=notice.link,
            reason=reason,
            contacts=site.settings.contacts,
            **known,
        )

"""The storage audit by DAG: each repository, and the machine, by itself; a mail shows all findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.audit import MACHINE, audit_one, audit_text, keep, names
from pgbackup.domain.errors import UnavailableError
from pgbackup.domain.findings import advice
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import LOCAL
from pgbackup.report.news import AUDIT, News, audit_news, compose_news, news_text
from pgbackup_airflow.notifier import Notice, ProtocolNotifier, run_link
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.protocol import settings

_AUDIT, _TEXT = "audit", "text"


class AuditOperator(ProtocolOperator):
    """Audit one repository, or the machine. A failure makes the task red; its report is kept all the same."""

    template_fields: Sequence[str] = ("place",)

    def __init__(self, *, place: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.place = place

    def execute(self, context: Context) -> int:
        """Return the number of findings; fails with all that have to be mended."""
        refuse_unknown(context, allowed=())
        with self.site(context) as site:
            findings = audit_one(site, self.place, self.cluster)
            text = audit_text(self.place, findings)
            self.log.info("%s", text)
            context["ti"].xcom_push(_TEXT, text)
            failed = [finding for finding in findings if finding.fails]
            self._keep(site, context, text, failed)
        if any(finding.name == names.ANSWERS for finding in failed):
            raise UnavailableError(advice(failed))  # it may answer at the next try
        if failed:
            raise AirflowFailException(advice(failed))
        return len(findings)

    def _keep(self, site: Site, context: Context, text: str, failed: Sequence[Finding]) -> None:
        run = context["dag_run"]
        called, link = f"{run.dag_id} {run.run_id}", run_link(run.dag_id, str(run.run_id))
        news = audit_news(site.settings, self.cluster, self.place, text, succeeded=not failed, run=called, link=link)
        html, kept = compose_news(news)[1], news_text(news)
        keep(site.settings, self.cluster, self.place, run.run_after, html=html, text=kept)


def audit_storage(cluster: str) -> None:
    """Make the tasks: one that is down delays no other."""
    operator = AuditOperator.partial(task_id=_AUDIT, cluster=cluster, map_index_template="{{ task.place }}")
    operator.expand(place=[MACHINE, LOCAL, *settings().repositories])


class AuditMail(ProtocolNotifier):
    """Mails the findings of every audit, good or bad."""

    def tell(self, context: Context, notice: Notice) -> None:
        """Send them; a run that ended without any task has no ``ti``."""
        instance = context.get("ti")
        written = instance.xcom_pull(task_ids=_AUDIT, key=_TEXT) if instance else None
        texts = written if isinstance(written, list) else [written]
        news = News(
            self.cluster,
            self.procedure,
            AUDIT,
            bool(self.succeeded),
            notice.run,
            notice.link,
            text="\n\n".join(text for text in texts if text),
            reason="" if self.succeeded else str(context.get("reason") or ""),
            contacts=notice.settings.contacts,
        )
        notice.send(*compose_news(news))

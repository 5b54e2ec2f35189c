"""Reviews by DAG: the report is kept and mailed, the run is red when something has to be mended; the test mail."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.errors import UnavailableError
from pgbackup.domain.findings import advice
from pgbackup.domain.model import Message
from pgbackup.domain.review import Period
from pgbackup.report.mail import render
from pgbackup.report.news import REVIEW, News, compose_news
from pgbackup.report.review import ReviewReport, compose_review, review_text
from pgbackup.review import keep, review
from pgbackup_airflow.channels import channels
from pgbackup_airflow.notifier import Notice, ProtocolNotifier, run_link
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown

_REVIEW, _MAIL = "review", "mail"


class TestMailOperator(ProtocolOperator):
    """Send a test message by every way that alerts go. One that does not work makes the run red: that is its point."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id="test_mail", task_display_name="test mail", **kwargs)

    def execute(self, context: Context) -> list[str]:
        """Return the ways that work; raises UnavailableError with those that do not, after all were tried."""
        refuse_unknown(context, allowed=())
        run = context["dag_run"]
        link, broken, works = run_link(run.dag_id, str(run.run_id)), [], []
        with self.site(context) as site:
            html = render("test.html.jinja", cluster=self.cluster, link=link, contacts=site.settings.contacts)
            message = Message(self.cluster, f"[{self.cluster}] test: alerts arrive", html, link)
            for channel in channels(site.settings):
                try:
                    channel.send(message)
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one way, the others are tried
                    broken.append(f"{channel.name}: {type(error).__name__}: {error}")
                else:
                    works.append(channel.name)
            if broken:
                hint = "repair it now: no alert reaches anybody by that way, and nobody would notice"
                raise UnavailableError("a test message cannot be sent", detail="; ".join(broken), hint=hint)
        return works


class ReviewOperator(ProtocolOperator):
    """Go through one of the protocol's lists; the report is kept whatever it says."""

    def __init__(self, *, period: Period, **kwargs: Any) -> None:
        super().__init__(task_id=_REVIEW, **kwargs)
        self.period = period

    def execute(self, context: Context) -> str:
        """Return where the report is; fails at once with all that has to be mended."""
        refuse_unknown(context, allowed=())
        run = context["dag_run"]
        with self.site(context) as site:
            done = review(site, self.cluster, self.period)
            owner, link = f"{run.dag_id} {run.run_id}", run_link(run.dag_id, str(run.run_id))
            report = ReviewReport(done, owner, link, site.settings.contacts)
            (subject, html), text = compose_review(report), review_text(report)
            path = keep(site.settings, done, html=html, text=text)
        self.log.info("%s", text)
        context["ti"].xcom_push(_MAIL, [subject, html])
        if done.failed:
            raise AirflowFailException(advice(done.failed))
        return str(path)


class ReviewMail(ProtocolNotifier):
    """Mails the report, good or bad; what ended before there was one is told, too."""

    def tell(self, context: Context, notice: Notice) -> None:
        """Send it; a run that ended without any task has no ``ti``."""
        instance = context.get("ti")
        written = instance.xcom_pull(task_ids=_REVIEW, key=_MAIL) if instance else None
        reason = "" if self.succeeded else str(context.get("reason") or "")
        if written:
            subject, html = written
        else:
            contacts = notice.settings.contacts
            news = News(self.cluster, self.procedure, REVIEW, False, notice.run, notice.link, "", reason, contacts)
            subject, html = compose_news(news)
        notice.send(subject, html)

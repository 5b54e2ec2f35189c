"""The watch: a run is red while anything fails; a mail goes out when something changes."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.findings import advice
from pgbackup.domain.model import Finding, Watched
from pgbackup.domain.ports import Site
from pgbackup.overview import look
from pgbackup.report.alert import Alert, compose_alert
from pgbackup.watch import examine, meaning, names
from pgbackup_airflow.channels import send_kept
from pgbackup_airflow.measures import emit
from pgbackup_airflow.notifier import Notice, ProtocolNotifier
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown

_NOT_JUDGED = "nobody knows now whether WAL is missing: open the run, the task's log says what stopped it"

RUN_LIMIT = timedelta(minutes=10)
"""A run that hangs is ended, so that it does not keep the next one from looking."""
_TRY_LIMIT = timedelta(minutes=3)


class WatchOperator(ProtocolOperator):
    """Judge everything that recovery depends on, and record it: what people hear of is made of the records."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(execution_timeout=_TRY_LIMIT, **kwargs)

    def execute(self, context: Context) -> int:
        """Return the number of findings; fails at once with all that do not hold."""
        refuse_unknown(context, allowed=())
        with self.site(context) as site:
            with contextlib.suppress(PgBackupError):  # a catalog that is down is a finding itself
                send_kept(site, self.cluster)
            watching = examine(site, self.cluster)
            findings = watching.findings
            for finding in findings:
                self.log.info("%s: %s %s", finding.name, "ok" if finding.ok else "FAILED", finding.detail)
            failed = [finding for finding in findings if not finding.ok]
            judged = (*findings, Finding(names.FINISHED, True, 0.0))
            try:
                site.catalog.saw(self.cluster, judged, owner=site.owner, now=site.clock())
                site.catalog.forget(self.cluster, _gone(site, self.cluster))
                site.catalog.gauged(self.cluster, watching.samples, now=site.clock())
            except PgBackupError as error:
                if all(finding.name == names.CATALOG for finding in failed):
                    raise  # nothing else is wrong: the next try may reach it
                self.log.error("not recorded: %s", error)  # noqa: TRY400 - said by whom it concerns, no bug of ours
            self._look(site)
            emit(watching.samples)
            if failed:
                raise AirflowFailException(advice(failed))
        return len(findings)

    def _look(self, site: Site) -> None:
        """Record what can be recovered, for the Recovery page; that this fails changes no colour."""
        try:
            site.catalog.looked(look(site, self.cluster))
        except PgBackupError as error:
            self.log.warning("the Recovery page keeps what was seen before: %s", error)


def _gone(site: Site, cluster: str) -> list[str]:
    """Return what is recorded of repositories that are configured no more: it would fail for ever."""
    known = {None, *site.repositories}
    return [one.name for one in site.catalog.watched(cluster) if names.of_repository(one.name) not in known]


class WatchNotifier(ProtocolNotifier):
    """Tells what changed since people last heard.

    It runs in the DAG processor, behind the run: a mail server that is down changes no colour, and what could not be
    sent is kept and sent by a later run.
    """

    def __init__(self, *, cluster: str, procedure: str, succeeded: bool | None) -> None:  # noqa: ARG002 - as all have it
        # Whoever heard that something failed hears that it holds again.
        super().__init__(cluster=cluster, procedure=procedure, succeeded=None)

    def tell(self, context: Context, notice: Notice) -> None:
        """Send one message when there is anything new."""
        site = notice.hook.site()
        try:
            watched = self._watched(site, context)
        except PgBackupError as error:
            watched = () if _failed_before(context) else (self._silent(site, error),)
        news = tuple(one for one in watched if one.is_news)
        if not news:
            return
        known = tuple(one for one in watched if not one.ok and not one.is_news)
        meanings = {one.name: meaning(one.name) for one in (*news, *known)}
        alert = Alert(self.cluster, notice.run, notice.link, news, known, site.settings.contacts, meanings)
        notice.send(*compose_alert(alert))
        with contextlib.suppress(PgBackupError):  # then the next mail says it again
            site.catalog.told(news, cluster=self.cluster)

    def _watched(self, site: Site, context: Context) -> tuple[Watched, ...]:
        """Return the state of everything; a run that ended before it judged is a finding, too."""
        watched = site.catalog.watched(self.cluster)
        run = context.get("dag_run")
        started = run.start_date if run else None
        finished = (one for one in watched if one.name == names.FINISHED)  # others see, too: `reach latest`
        # The owner needs no clocks to agree; a callback that comes late finds what a later run saw.
        if any(one.owner == site.owner or (started and one.seen_at > started) for one in finished):
            return watched
        finding = Finding(names.FINISHED, False, 0.0, *self._unfinished(site, context))
        site.catalog.saw(self.cluster, (finding,), owner=site.owner, now=site.clock())
        return site.catalog.watched(self.cluster)

    def _unfinished(self, site: Site, context: Context) -> tuple[str, str]:
        """Return why a run ended before it judged, and what to do: when no worker took its task, no host is known."""
        task: Any = context.get("ti")
        if task is None or task.hostname:
            return f"{site.owner} ended before it judged: {context.get('reason')}", _NOT_JUDGED
        detail = f"no worker took the task of {site.owner} from queue {task.queue!r}: {context.get('reason')}"
        hint = f"nothing of {self.cluster} runs: start a worker of queue {task.queue!r}, or give more slots to those"
        return detail, f"{hint} that are busy (docs/fleet.md)"

    def _silent(self, site: Site, error: PgBackupError) -> Watched:
        """Say that the catalog does not answer: then nobody knows what is new."""
        now = site.clock()
        detail = f"{error.message}; the run's log says what else fails"
        return Watched(names.CATALOG, False, detail, error.hint or "", site.owner, now, now, True)


def _failed_before(context: Context) -> bool:
    """Without a catalog the run before says whether people know: Airflow mailed that one."""
    instance = context.get("ti")
    before = instance.get_previous_dagrun() if instance else None
    return before is not None and before.state == "failed"

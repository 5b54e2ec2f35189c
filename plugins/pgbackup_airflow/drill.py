"""Recovery drills: a task a scenario; whatever they find is mailed, good or bad."""

from __future__ import annotations

import dataclasses
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.drill import Drill, Scenario
from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.findings import advice
from pgbackup.domain.ports import Site
from pgbackup.drill import drill
from pgbackup.report.drill import DrillReport, compose_drill, drill_text
from pgbackup.shelf import keep_report
from pgbackup_airflow.notifier import Notice, ProtocolNotifier, run_link
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown

CHOOSE = "choose"


class ChooseScenariosOperator(ProtocolOperator):
    """Say which scenarios this run drills."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id=CHOOSE, task_display_name="choose scenarios", **kwargs)

    def execute(self, context: Context) -> list[str]:
        """Return their names; fails when none is chosen."""
        refuse_unknown(context, allowed=("scenarios",))
        with self.site(context):
            chosen = [one.value for one in Scenario if one in context["params"]["scenarios"]]
            if not chosen:
                raise ConfigurationError("no scenario is chosen", hint=", ".join(Scenario))
        return chosen


class DrillOperator(ProtocolOperator):
    """Drill one scenario. An item that does not hold fails the task at once: the result is recorded, the report of the
    run, as far as it came, is kept.
    """

    def __init__(self, *, scenario: Scenario, **kwargs: Any) -> None:
        super().__init__(task_id=scenario.value, task_display_name=scenario.label, **kwargs)
        self.scenario = scenario

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Return what was measured; None where this scenario was not asked for."""
        if self.scenario not in context["ti"].xcom_pull(task_ids=CHOOSE):
            self.log.info("not asked for")
            return None
        with self.site(context) as site:
            done = drill(site, self.cluster, self.scenario)
            _keep(site, self.cluster, context["dag_run"])
        if not done.ok:
            raise AirflowFailException(advice(done.findings))
        return {"subject": done.subject, "rto_seconds": done.rto_seconds, "rpo_seconds": done.rpo_seconds}


class ReportDrillOperator(ProtocolOperator):
    """Write the report of a run whose drills all held; of any other the mail is the report."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id="report", **kwargs)

    def execute(self, context: Context) -> dict[str, str]:
        """Return the report in Markdown."""
        with self.site(context) as site:
            report = _report(site, self.cluster, succeeded=True)
        asked = context["ti"].xcom_pull(task_ids=CHOOSE)
        if report.failed or {one.scenario.value for one in report.drills} != set(asked):
            raise AirflowFailException(
                f"not every drill that was asked for held: {report.headline}\nHINT: clear the tasks that did not run"
            )
        text = drill_text(report)
        self.log.info("%s", text)
        return {"text": text}


class DrillMail(ProtocolNotifier):
    """Mails the report of a run, from what the catalog knows of it; also of a run that failed."""

    def tell(self, context: Context, notice: Notice) -> None:
        """Send it."""
        reason = "" if self.succeeded else str(context.get("reason") or "")
        try:
            report = _report(notice.hook.site(), self.cluster, succeeded=bool(self.succeeded))
        except PgBackupError as error:
            reason = f"{reason}; the catalog does not answer: {error.message}"
            report = DrillReport(self.cluster, False, notice.settings.objectives, (), ())
        report = dataclasses.replace(
            report, run=notice.run, link=notice.link, reason=reason, contacts=notice.settings.contacts
        )
        notice.send(*compose_drill(report))


def _keep(site: Site, cluster: str, run: Any) -> None:
    """Keep the report of a run's drills so far, in the place of the one before the last of them."""
    report = dataclasses.replace(
        _report(site, cluster, succeeded=True),
        run=f"{run.dag_id} {run.run_id}",
        link=run_link(run.dag_id, str(run.run_id)),
    )
    began = min(one.started_at for one in report.drills)
    html, text = compose_drill(report)[1], drill_text(report)
    keep_report(site.settings, cluster, began, "recovery_drill", html=html, text=text)


def _report(site: Site, cluster: str, *, succeeded: bool) -> DrillReport:
    history = site.catalog.drills(cluster)
    drills = _newest(history, site.owner)
    return DrillReport(cluster, succeeded, site.settings.objectives, drills, history, contacts=site.settings.contacts)


def _newest(history: tuple[Drill, ...], owner: str) -> tuple[Drill, ...]:
    """Return the last drill of each scenario in a run: a task may have been cleared and run again."""
    own = {one.scenario: one for one in reversed(history) if one.owner == owner}
    return tuple(sorted(own.values(), key=lambda one: one.started_at))

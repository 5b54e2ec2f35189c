"""Disaster recovery by a DAG run: a task for each of the protocol's steps, each between two lines of the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow.sdk import Context, TaskGroup
from airflow.sdk.exceptions import AirflowFailException
from pydantic import TypeAdapter

from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.incident import PHASES, Doing, Fact
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site
from pgbackup.domain.target import parse_moment
from pgbackup.recover import (
    Foresight,
    Recovered,
    Request,
    disaster,
    foresee,
    hold_needed,
    release_needed,
    usual_folder,
)
from pgbackup.recover.incident import Journal, Told
from pgbackup_airflow.hook import PgBackupHook
from pgbackup_airflow.notifier import Notice
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.recovery.approval import APPROVE_SWITCH, PLAN, PLAN_SWITCH, ApproveOperator, granted
from pgbackup_airflow.recovery.incident import journal_for, report_on
from pgbackup_airflow.recovery.point_in_time import FIELDS as TARGET_FIELDS
from pgbackup_airflow.recovery.point_in_time import read_request

FIELDS = ("what", "happened_at", "target", "time", "repository", "folder", "port")
RESTORE = "restore"
CUTOVER = {"task_id": APPROVE_SWITCH, "plan": PLAN_SWITCH, "step": Doing.SWITCH}
"""What the second approval differs in from the first."""
NOT_MAILED = "stakeholders were notified"

_foresights = TypeAdapter(Foresight)
_recovered = TypeAdapter(Recovered)
_cutovers = TypeAdapter(disaster.Cutover)


def phase_group(name: str) -> TaskGroup:
    """Group the tasks of a phase; its tooltip says how long the protocol allows."""
    phase = next(phase for phase in PHASES if phase.name == name)
    minutes = phase.allowed.total_seconds() / 60
    return TaskGroup(name, prefix_group_id=False, tooltip=f"{name}: {minutes:g} minutes by the protocol")


@dataclass(frozen=True)
class _Taken:
    """What a step's function needs: the site, the journal, and what the steps before it left."""

    site: Site
    cluster: str
    journal: Journal
    context: Context

    def pull(self, task_id: str) -> Any:
        return self.context["ti"].xcom_pull(task_ids=task_id)

    @cached_property
    def ahead(self) -> Foresight:
        return _foresights.validate_python(self.pull(PLAN)["plan"])

    @cached_property
    def approved(self) -> Foresight:
        return _foresights.validate_python(granted(self.context)["plan"])

    @cached_property
    def recovered(self) -> Recovered:
        return _recovered.validate_python(self.pull(RESTORE))

    @property
    def port(self) -> int:
        return int(self.context["params"]["port"])

    @property
    def server(self) -> tuple[Site, str, Recovered, int]:
        return self.site, self.cluster, self.recovered, self.port


def request_of(site: Site, cluster: str, context: Context) -> Request:
    """Read the form, across its fields; raises ConfigurationError."""
    run: Any = context["dag_run"]
    params = {**dict.fromkeys(TARGET_FIELDS), **{name: context["params"][name] for name in FIELDS}}
    return read_request(params, usual_folder(site, cluster, f"{run.run_after:%Y%m%d_%H%M%S}"))


def _declare(taken: _Taken) -> None:
    """Judge the whole form, then begin the journal."""
    refuse_unknown(taken.context, allowed=FIELDS)
    params, run = taken.context["params"], taken.context["dag_run"]
    request = request_of(taken.site, taken.cluster, taken.context)
    facts = {Fact.TARGET: str(request.target)}
    if params["happened_at"]:
        happened = parse_moment(params["happened_at"])
        if happened > taken.site.clock():
            raise ConfigurationError("it cannot have happened in the future", detail=params["happened_at"])
        facts[Fact.HAPPENED_AT] = happened.isoformat()
    asked = f", asked for by {run.triggering_user_name}" if run.triggering_user_name else ""
    taken.journal.declare(run.run_after, f"{params['what']}{asked}", facts)


def _assess(taken: _Taken) -> Told:
    return disaster.assess_scope(taken.site, taken.cluster, taken.journal.read().since)


def _plan(taken: _Taken) -> tuple[Told, Any]:
    site, cluster = taken.site, taken.cluster
    request = request_of(site, cluster, taken.context)
    ahead = foresee(site, cluster, request)
    hold_needed(site, cluster, ahead.plan)
    chosen = f"{ahead.plan.target} from {ahead.plan.repository}, into {request.into}"
    told = Told(chosen, (), disaster.plan_facts(ahead))
    text = disaster.disaster_plan_text(site, taken.journal.read(), ahead)
    return told, {"plan": _foresights.dump_python(ahead, mode="json"), "text": text}


def _notify(taken: _Taken) -> Told:
    """Tell everybody what is going on; a mail server, or a catalog, that is gone, too, stops no recovery."""
    settings, run = taken.site.settings, taken.context["dag_run"]
    if settings.mail is None and not settings.notifiers:
        return Told("neither mail nor notifier is configured: call the contacts")
    hook = PgBackupHook(owner=taken.site.owner, cluster=taken.cluster)
    notice = Notice(taken.cluster, run.dag_id, str(run.run_id), hook, alarming=True)
    subject, _, html = report_on(settings, taken.cluster, run)
    try:
        failed = ", ".join(notice.send(subject, html))
    except PgBackupError as error:
        failed = str(error)
    if failed:
        return Told("not everybody was told", (Finding(NOT_MAILED, False, 0.0, failed, "call the contacts"),))
    return Told(f"mailed to {', '.join(settings.mail.recipients)}" if settings.mail else "told by the notifiers")


def _restore(taken: _Taken) -> tuple[Told, Any]:
    told, recovered = disaster.restore(taken.site, taken.cluster, taken.approved.request)
    release_needed(taken.site, taken.approved.plan)
    return told, _recovered.dump_python(recovered, mode="json")


def _switch(taken: _Taken) -> Told:
    plan = _cutovers.validate_python(granted(taken.context, APPROVE_SWITCH)["plan"])
    return disaster.switch(taken.site, plan, taken.recovered)


_STEPS: dict[str, tuple[Doing, Callable[[_Taken], Told | tuple[Told, Any]]]] = {
    "assess_scope": (Doing.ASSESS, _assess),
    PLAN: (Doing.PLAN, _plan),
    "verify_availability": (Doing.AVAILABILITY, lambda taken: disaster.verify_availability(taken.site, taken.ahead)),
    "provision": (
        Doing.PROVISION,
        lambda taken: disaster.provision(taken.site, taken.cluster, taken.approved.request),
    ),
    "prepare_files": (Doing.PREPARE, lambda taken: disaster.prepare_files(taken.site, taken.cluster, taken.approved)),
    "notify_stakeholders": (Doing.NOTIFY, _notify),
    RESTORE: (Doing.RESTORE, _restore),
    "verify_integrity": (
        Doing.INTEGRITY,
        lambda taken: disaster.verify_integrity(taken.site, taken.recovered, taken.journal.read()),
    ),
    "test_connectivity": (Doing.CONNECTIVITY, lambda taken: disaster.check_connectivity(*taken.server)),
    "test_functions": (Doing.FUNCTIONS, lambda taken: disaster.check_functions(*taken.server)),
    "validate_data": (Doing.DATA, lambda taken: disaster.check_data(*taken.server, taken.journal.read())),
    "test_performance": (
        Doing.PERFORMANCE,
        lambda taken: disaster.check_performance(*taken.server, taken.journal.read()),
    ),
    "switch": (Doing.SWITCH, _switch),
    "monitor": (Doing.MONITOR, lambda taken: disaster.monitor(taken.site, taken.cluster, taken.recovered)),
    "document": (Doing.DOCUMENT, lambda taken: Told(f"the report is kept in {taken.journal.folder}")),
}


class DisasterOperator(ProtocolOperator):
    """One step of the protocol, known by its task's id; what it does and finds is in the journal."""

    def __init__(self, *, task_id: str, **kwargs: Any) -> None:
        super().__init__(task_id=task_id, task_display_name=_STEPS[task_id][0].value, **kwargs)

    def execute(self, context: Context) -> Any:
        """Return what later tasks need of it."""
        step, do = _STEPS[self.task_id]
        left: list[Any] = []
        with self.site(context) as site:
            journal = journal_for(site.settings, self.cluster, context["dag_run"])
            taken = _Taken(site, self.cluster, journal, context)
            if step is Doing.ASSESS:
                _declare(taken)

            def told() -> Told:
                found = do(taken)
                if isinstance(found, Told):
                    return found
                left.append(found[1])
                return found[0]

            said = journal.take(step, told)
            if step is Doing.DOCUMENT:
                left.append(self._written(taken))
        return left[0] if left else {"text": said.detail}

    def _written(self, taken: _Taken) -> dict[str, str]:
        """Write the report; fails, when it is written, unless everything that was found holds."""
        _, markdown, _ = report_on(taken.site.settings, self.cluster, taken.context["dag_run"])
        self.log.info("the report:\n%s", markdown)
        disaster.refuse_findings(taken.journal.read())
        return {"text": markdown}


class PlanSwitchOperator(ProtocolOperator):
    """Plan the cutover of what was validated, for its approval."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id=PLAN_SWITCH, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan, and its text."""
        with self.site(context) as site:
            journal = journal_for(site.settings, self.cluster, context["dag_run"])
            taken = _Taken(site, self.cluster, journal, context)
            with journal.failing(Doing.SWITCH):
                plan = disaster.plan_cutover(*taken.server)
            place = f"127.0.0.1:{taken.port}, or the socket in {taken.recovered.folder}"
            text = disaster.cutover_text(site, journal.read(), plan, place)
        self.log.info("the plan:\n%s", text)
        return {"plan": _cutovers.dump_python(plan, mode="json"), "text": text}


class ApproveDisasterOperator(ApproveOperator):
    """Ask, and write into the journal who approved, or that nobody did."""

    def __init__(self, *, step: Doing = Doing.PLAN, **kwargs: Any) -> None:
        super().__init__(procedure="disaster recovery", **kwargs)
        self.step = step

    def execute(self, context: Context) -> Any:
        """Ask; where nobody is to be asked, that is the decision."""
        return self._decided(context, super().execute(context))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what was approved and by whom."""
        try:
            return self._decided(context, super().execute_complete(context, event))
        except AirflowFailException as error:
            who = (event.get("responded_by_user") or {}).get("name")
            said = f"{error} ({who})" if who else str(error)
            self._journal(context).decide(self.step, said, approved=False)
            raise

    def _decided(self, context: Context, answer: Any) -> Any:
        if answer:
            self._journal(context).decide(self.step, str(answer["approved"]), approved=True)
        return answer

    def _journal(self, context: Context) -> Journal:
        run: Any = context["dag_run"]
        settings = PgBackupHook(owner=f"{run.dag_id}/{run.run_id}", cluster=None).settings
        return journal_for(settings, self.cluster, run)

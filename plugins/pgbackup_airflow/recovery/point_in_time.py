"""A cluster at a moment, beside the present one; then, where that is wanted, in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from pydantic import TypeAdapter

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.findings import advice
from pgbackup.domain.ports import Site
from pgbackup.domain.target import Target, parse_target
from pgbackup.recover import (
    UNTOUCHED,
    Foresight,
    Recovered,
    Request,
    SwitchPlan,
    foresee,
    hold_needed,
    plan_replacement,
    plan_text,
    recover_cluster,
    refuse_obstacle,
    release_needed,
    replace_present,
    report_text,
    switch_plan_text,
    switched_text,
    usual_folder,
)
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.recovery.approval import APPROVE_SWITCH, RECOVER, granted, outcome
from pgbackup_airflow.recovery.forms import read_repository

FIELDS = ("target", "time", "lsn", "xid", "name", "timeline", "repository", "folder", "port", "replace")
SWITCH = "switch"

_foresights = TypeAdapter(Foresight)
_recovered = TypeAdapter(Recovered)
_switch_plans = TypeAdapter(SwitchPlan)


class PlanPointInTimeOperator(ProtocolOperator):
    """Judge what was asked for and plan it: whatever cannot be is refused here, before anybody is asked."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan, and its text."""
        refuse_unknown(context, allowed=FIELDS)
        params = context["params"]
        with self.site(context) as site:
            request = read_request(params, self._default(site, context))
            ahead = foresee(site, self.cluster, request)
            if params["replace"]:
                refuse_obstacle(site, self.cluster, request.into)
            hold_needed(site, self.cluster, ahead.plan)
        text = plan_text(ahead, replacing=params["replace"])
        self.log.info("the plan:\n%s", text)
        return {"plan": _foresights.dump_python(ahead, mode="json"), "text": text}

    def _default(self, site: Site, context: Context) -> Path:
        """Return where to recover to when the form does not say."""
        run: Any = context["dag_run"]
        stamp = f"{run.run_after:%Y%m%d_%H%M%S}"
        if context["params"]["replace"]:
            return usual_folder(site, self.cluster, stamp)
        return site.settings.paths.recovered_folder / f"{self.cluster}_{stamp}"


def read_request(params: Mapping[str, Any], default: Path) -> Request:
    """Read the form, across its fields; raises ConfigurationError unless it names exactly one target."""
    return Request(
        target=_read_target(params),
        into=Path(params["folder"] or default),
        timeline=params["timeline"],
        repository=read_repository(params["repository"]),
        port=params["port"],
    )


def _read_target(params: Mapping[str, Any]) -> Target:
    wanted = {params["target"]} - {"latest"}
    given = {kind: params[kind] for kind in ("time", "lsn", "xid", "name") if params[kind] not in {None, ""}}
    if set(given) != wanted:
        raise ConfigurationError(
            f"the target is {params['target']!r}, and what is filled in is: {', '.join(given) or 'nothing'}",
            hint="fill in the one field of the chosen target, and leave the others empty",
        )
    moment = given.pop("time", None if given else "latest")
    return parse_target(moment, **given)


class RecoverPointInTimeOperator(ProtocolOperator):
    """Carry out what was approved; a try after an interruption goes on in the same folder."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was recovered."""
        answer = granted(context)
        approved = _foresights.validate_python(answer["plan"])
        request = approved.request
        with self.site(context) as site:
            self.log.info("approved %s; recovering into %s", answer["approved"], request.into)
            recovered = recover_cluster(
                site,
                self.cluster,
                request.target,
                into=request.into,
                timeline=request.timeline,
                repository=request.repository,
                port=request.port,
            )
            release_needed(site, approved.plan)
        document: dict[str, Any] = _recovered.dump_python(recovered, mode="json")
        return document


class PlanSwitchOperator(ProtocolOperator):
    """Plan to put the recovered cluster in the place of the present one, when the form asks for that."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan (None: not asked for), and its text."""
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        if not context["params"]["replace"]:
            return {"plan": None, "text": "no switch was asked for"}
        with self.site(context) as site:
            plan = plan_replacement(site, self.cluster, recovered, recovered.port)
        text = f"{switch_plan_text(plan)}\n\n{_report(context, recovered)}"
        self.log.info("the plan of the switch:\n%s", text)
        return {"plan": _switch_plans.dump_python(plan, mode="json"), "text": text}


class SwitchOperator(ProtocolOperator):
    """Switch as approved; fails when the application cannot work in the cluster that is in place now."""

    def execute(self, context: Context) -> dict[str, str]:
        """Return what was done, in words; nothing when nothing was asked for."""
        answer = granted(context, APPROVE_SWITCH)
        if answer["plan"] is None:
            return {}
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        with self.site(context) as site:
            done = replace_present(site, _switch_plans.validate_python(answer["plan"]), recovered)
        if done is None:
            return {"text": f"An earlier try has switched: **{self.cluster}** answers as the recovered cluster."}
        text = switched_text(done, answer["approved"])
        self.log.info("the switch:\n%s", text)
        if not done.ok:
            raise AirflowFailException(
                f"the recovered cluster is in place, and: {advice(done.findings)}\n"
                "HINT: the log above says how to undo it; to keep it: see to it, then clear this task"
            )
        return {"text": text}


class FreshBaseOperator(TriggerDagRunOperator):
    """Trigger the backups of a cluster that has a new timeline, unless it was not replaced."""

    def __init__(self, *, cluster: str, **kwargs: Any) -> None:
        super().__init__(trigger_dag_id=f"{cluster}_full_backup", logical_date=None, **kwargs)

    def execute(self, context: Context) -> None:
        """Trigger them, and go on: they have mails of their own."""
        if outcome(context, SWITCH):
            super().execute(context)
        else:
            self.log.info("no switch was asked for: the backups go on as they are")


class ReportPointInTimeOperator(ProtocolOperator):
    """Write down what came back, what is lost, how long it took and what to do next; the mail holds the same."""

    def execute(self, context: Context) -> dict[str, str]:
        """Return the report."""
        switched = outcome(context, SWITCH)
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        first = switched["text"] if switched else UNTOUCHED
        text = f"{first}\n\n{_report(context, recovered, replaced=bool(switched))}"
        self.log.info("the report:\n%s", text)
        return {"text": text}


def _report(context: Context, recovered: Recovered, *, replaced: bool = False) -> str:
    """Tell of the recovery that was approved."""
    answer = granted(context)
    return report_text(recovered, _foresights.validate_python(answer["plan"]), answer["approved"], replaced=replaced)

"""Recovery by a DAG run: what was asked for is planned, approved by somebody, carried out, reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseNotifier, Context, Param
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.hitl import HITLUser
from pydantic import TypeAdapter

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.settings import Recovery
from pgbackup.domain.target import Target, parse_target
from pgbackup.recover import Foresight, Recovered, Request, foresee, plan_text, recover_cluster, report_text
from pgbackup.report.recovery import APPROVAL, DONE, FAILED, RecoveryNews, compose_recovery
from pgbackup_airflow.hook import PgBackupHook
from pgbackup_airflow.notifier import deliver, run_link
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown

FIELDS = ("target", "time", "lsn", "xid", "name", "timeline", "repository", "folder", "port")
PLAN, APPROVE, RECOVER, REPORT = "plan", "approve", "recover", "report"

_foresights = TypeAdapter(Foresight)
_recovered = TypeAdapter(Recovered)


class PlanRecoveryOperator(ProtocolOperator):
    """Judge what was asked for and plan it: whatever cannot be is refused here, before anybody is asked."""

    def __init__(self, *, recovery: Recovery, **kwargs: Any) -> None:
        super().__init__(task_id=PLAN, **kwargs)
        self.recovery = recovery

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan, and its text."""
        refuse_unknown(context, allowed=FIELDS)
        run: Any = context["dag_run"]
        if self.recovery.four_eyes and not run.triggering_user_name:
            raise AirflowFailException(
                "nobody knows who asks for this recovery, and its approver must be another one\n"
                "HINT: trigger it in the UI or by the REST API, logged in"
            )
        with self.site(context) as site:
            name = f"{self.cluster}_{run.run_after:%Y%m%d_%H%M%S}"
            default = site.settings.paths.recovered_folder / name
            ahead = foresee(site, self.cluster, read_request(context["params"], default))
        text = plan_text(ahead)
        self.log.info("the plan:\n%s", text)
        return {"foresight": _foresights.dump_python(ahead, mode="json"), "text": text}


def read_request(params: Mapping[str, Any], default: Path) -> Request:
    """Read the form, across its fields; raises ConfigurationError unless it names exactly one target."""
    return Request(
        target=_read_target(params),
        into=Path(params["folder"] or default),
        timeline=params["timeline"],
        repository=params["repository"],
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


class RecoveryMail(BaseNotifier):
    """Mails about a recovery: that it waits for an approval, or that it ended."""

    template_fields = ()

    def __init__(self, *, cluster: str, procedure: str, succeeded: bool | None = None) -> None:
        super().__init__()
        self.cluster = cluster
        self.procedure = procedure
        self.succeeded = succeeded

    def notify(self, context: Context) -> None:
        """Send it to everybody in `mail.recipients`."""
        dag_id, run_id = context["dag"].dag_id, str(context["run_id"])
        settings = PgBackupHook(owner=f"{dag_id}/{run_id}").settings
        if settings.mail is None:
            self.log.warning("no mail is configured: nobody hears of %s", run_id)
            return
        headline, steps, source = {
            None: ("waits for an APPROVAL", APPROVAL, PLAN),
            True: ("recovered beside", DONE, REPORT),
            False: ("FAILED", FAILED, PLAN),
        }[self.succeeded]
        news = RecoveryNews(
            self.cluster,
            self.procedure,
            headline,
            f"{dag_id} {run_id}",
            run_link(dag_id, run_id),
            steps,
            text=_text(context, source),
            reason=str(context.get("reason") or "") if self.succeeded is False else "",
            contacts=settings.contacts,
        )
        deliver(settings.mail, *compose_recovery(news))
        self.log.info("mailed: %s", headline)


def _text(context: Context, task_id: str) -> str:
    """Return what a task of the run wrote; a run that ended without any task has no ``ti``."""
    instance = context.get("ti")
    written = instance.xcom_pull(task_ids=task_id) if instance else None
    return str(written["text"]) if written else ""


class ApproveRecoveryOperator(ApprovalOperator):
    """Ask somebody for the plan's approval: nothing but a typed cluster name approves, and silence rejects."""

    def __init__(self, *, cluster: str, recovery: Recovery, **kwargs: Any) -> None:
        # Not required by the form: that would keep people from rejecting, too.
        typed = Param(
            None,
            type=["null", "string"],
            title=f"To approve, type the name of the cluster: {cluster}",
            description="Whoever approves has read the plan above.",
        )
        kwargs["params"] = {"cluster_name": typed}  # Airflow gives us the DAG's own
        super().__init__(
            task_id=APPROVE,
            subject=f"Recover {cluster} beside, as planned?",
            body=f"{{{{ ti.xcom_pull(task_ids='{PLAN}')['text'] }}}}",
            fail_on_reject=True,
            assigned_users=[HITLUser(id=one, name=one) for one in recovery.approvers] or None,
            response_timeout=recovery.within,
            notifiers=RecoveryMail(cluster=cluster, procedure="recover point in time"),
            **kwargs,
        )
        self.cluster = cluster
        self.recovery = recovery

    def execute(self, context: Context) -> Any:
        """Ask; where the configuration wants no approval, say so and return at once."""
        if self.recovery.approval:
            return super().execute(context)
        self.log.warning("nobody is asked: recovery.approval of %s is off", self.cluster)
        return {"plan": _planned(context), "approved": "none asked for: recovery.approval is off"}

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what was approved and by whom; fails at once for every other answer, and for none."""
        try:
            answer = super().execute_complete(context, event)
        except HITLRejectException:
            raise AirflowFailException("the plan was rejected: nothing was touched") from None
        except HITLTimeoutError:
            raise AirflowFailException(
                f"nobody approved within {self.recovery.within}: nothing was touched\nHINT: trigger a new run"
            ) from None
        user = answer["responded_by_user"] or {}
        if (answer["params_input"] or {}).get("cluster_name") != self.cluster:
            raise AirflowFailException(
                f"the name of the cluster was not typed in as {self.cluster!r}: nothing was touched"
            )
        if self.recovery.four_eyes:
            _refuse_same(context["dag_run"], user)
        self.log.info("approved by %s", user.get("name"))
        return {"plan": _planned(context), "approved": f"by {user.get('name')} at {answer['responded_at']}"}


def _planned(context: Context) -> Any:
    return context["ti"].xcom_pull(task_ids=PLAN)["foresight"]


def _refuse_same(run: Any, user: Mapping[str, Any]) -> None:
    """Fail unless requester and approver are two known people."""
    requester, approver = run.triggering_user_name, user.get("name")
    if not requester or not approver or requester.casefold() == approver.casefold():
        raise AirflowFailException(
            f"four eyes: {requester or 'somebody unknown'} asked for it, and {approver or 'somebody unknown'} approved:"
            " nothing was touched\nHINT: another user must approve; trigger a new run"
        )


class RecoverPointInTimeOperator(ProtocolOperator):
    """Carry out what was approved; a try after an interruption goes on in the same folder."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id=RECOVER, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was recovered."""
        granted = context["ti"].xcom_pull(task_ids=APPROVE)
        if not granted:  # somebody marked that task as successful
            raise AirflowFailException("nobody approved this recovery\nHINT: clear the task `approve`, and answer it")
        request = _foresights.validate_python(granted["plan"]).request
        with self.site(context) as site:
            self.log.info("approved %s; recovering into %s", granted["approved"], request.into)
            recovered = recover_cluster(
                site,
                self.cluster,
                request.target,
                into=request.into,
                timeline=request.timeline,
                repository=request.repository,
                port=request.port,
            )
        document: dict[str, Any] = _recovered.dump_python(recovered, mode="json")
        return document


class ReportRecoveryOperator(ProtocolOperator):
    """Write down what came back, what is lost, how long it took and what to do next; the mail holds the same."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id=REPORT, **kwargs)

    def execute(self, context: Context) -> dict[str, str]:
        """Return the report."""
        pull = context["ti"].xcom_pull
        granted = pull(task_ids=APPROVE)
        recovered = _recovered.validate_python(pull(task_ids=RECOVER))
        text = report_text(recovered, _foresights.validate_python(granted["plan"]), granted["approved"])
        self.log.info("the report:\n%s", text)
        return {"text": text}

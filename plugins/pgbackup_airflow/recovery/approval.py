"""A person between the plan and the deed: the question, its answer, and the mails about both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.hitl import HITLUser

from pgbackup.domain.settings import Recovery
from pgbackup.report.recovery import RecoveryNews, Stage, compose_recovery
from pgbackup_airflow.notifier import Notice, ProtocolNotifier

PLAN, APPROVE, RECOVER, REPORT = "plan", "approve", "recover", "report"
PLAN_SWITCH, APPROVE_SWITCH = "plan_switch", "approve_switch"


class RecoveryMail(ProtocolNotifier):
    """Mails about a recovery: that it waits for an approval (``succeeded`` is None then), or that it ended."""

    def __init__(self, *, cluster: str, procedure: str, succeeded: bool | None = None, plan: str = PLAN) -> None:
        super().__init__(cluster=cluster, procedure=procedure, succeeded=succeeded)
        self.plan = plan

    def tell(self, context: Context, notice: Notice) -> None:
        """Send it with the report that there is, else with the plan that was approved last."""
        switch = _written(context, APPROVE_SWITCH)
        switching = switch is not None and switch["plan"] is not None
        plan = PLAN_SWITCH if switching else self.plan
        news = RecoveryNews(
            self.cluster,
            self.procedure,
            {None: Stage.ASKED, True: Stage.DONE, False: Stage.FAILED}[self.succeeded],
            notice.run,
            notice.link,
            text=("" if self.succeeded is None else _text(context, REPORT)) or _text(context, plan),
            may_have_switched=switching or not context.get("ti"),
            reason=str(context.get("reason") or "") if self.succeeded is False else "",
            contacts=notice.settings.contacts,
        )
        notice.send(*compose_recovery(news))


def _written(context: Context, task_id: str) -> Any:
    """Return what a task of the run left; a run that ended without any task has no ``ti``."""
    instance = context.get("ti")
    return instance.xcom_pull(task_ids=task_id) if instance else None


def _text(context: Context, task_id: str) -> str:
    written = _written(context, task_id)
    return str(written["text"]) if written else ""


class ApproveOperator(ApprovalOperator):
    """Ask somebody to approve what a task planned: only a typed cluster name does, and silence rejects.

    That task returned ``{"plan": <JSON>, "text": <Markdown>}``; of a plan that is None nobody is asked.
    """

    def __init__(
        self,
        *,
        cluster: str,
        recovery: Recovery,
        subject: str,
        procedure: str,
        plan: str = PLAN,
        task_id: str = APPROVE,
        **kwargs: Any,
    ) -> None:
        # Not required by the form: that would keep people from rejecting, too.
        typed = Param(
            None,
            type=["null", "string"],
            title=f"To approve, type the name of the cluster: {cluster}",
            description="Whoever approves has read the plan above.",
        )
        kwargs["params"] = {"cluster_name": typed}  # Airflow gives us the DAG's own
        super().__init__(
            task_id=task_id,
            subject=subject,
            body=f"{{{{ ti.xcom_pull(task_ids='{plan}')['text'] }}}}",
            fail_on_reject=True,
            assigned_users=[HITLUser(id=one, name=one) for one in recovery.approvers] or None,
            response_timeout=recovery.within,
            notifiers=RecoveryMail(cluster=cluster, procedure=procedure, plan=plan),
            **kwargs,
        )
        self.cluster = cluster
        self.recovery = recovery
        self.plan = plan

    def execute(self, context: Context) -> Any:
        """Ask; where there is nothing to approve, or the configuration wants nobody asked, say so at once."""
        planned = context["ti"].xcom_pull(task_ids=self.plan)
        if planned["plan"] is None:
            self.log.info("nothing to approve: %s", planned["text"])
            return {"plan": None, "approved": "not needed"}
        if not self.recovery.approval:
            self.log.warning("nobody is asked: recovery.approval of %s is off", self.cluster)
            return {"plan": planned["plan"], "approved": "none asked for: recovery.approval is off"}
        run: Any = context["dag_run"]
        if self.recovery.four_eyes and not run.triggering_user_name:
            raise AirflowFailException(
                "nobody knows who asks for this recovery, and its approver must be another one\n"
                "HINT: trigger it in the UI or by the REST API, logged in"
            )
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what was approved and by whom; fails at once for every other answer, and for none."""
        try:
            answer = super().execute_complete(context, event)
        except HITLRejectException:
            raise AirflowFailException("the plan was rejected: nothing of it was done") from None
        except HITLTimeoutError:
            raise AirflowFailException(
                f"nobody approved within {self.recovery.within}: nothing of the plan was done\nHINT: trigger a new run"
            ) from None
        user = answer["responded_by_user"] or {}
        if (answer["params_input"] or {}).get("cluster_name") != self.cluster:
            raise AirflowFailException(
                f"the name of the cluster was not typed in as {self.cluster!r}: nothing of the plan was done"
            )
        if self.recovery.four_eyes:
            _refuse_same(context["dag_run"], user)
        self.log.info("approved by %s", user.get("name"))
        planned = context["ti"].xcom_pull(task_ids=self.plan)["plan"]
        return {"plan": planned, "approved": f"by {user.get('name')} at {answer['responded_at']}"}


def granted(context: Context, task_id: str = APPROVE) -> dict[str, Any]:
    """Return ``{"plan", "approved"}`` of an approval; fails at once when nobody gave it."""
    answer = context["ti"].xcom_pull(task_ids=task_id)
    if not answer:  # somebody marked that task as successful
        raise AirflowFailException(f"nobody approved this\nHINT: clear the task `{task_id}`, and answer it")
    return dict(answer)


def outcome(context: Context, task_id: str) -> Any:
    """Return what a task returned; fails at once when it did not run: somebody marked it as successful."""
    result = context["ti"].xcom_pull(task_ids=task_id)
    if result is None:
        raise AirflowFailException(f"`{task_id}` was not carried out\nHINT: clear that task")
    return result


def _refuse_same(run: Any, user: Mapping[str, Any]) -> None:
    """Fail unless requester and approver are two known people."""
    requester, approver = run.triggering_user_name, user.get("name")
    if not requester or not approver or requester.casefold() == approver.casefold():
        raise AirflowFailException(
            f"four eyes: {requester or 'somebody unknown'} asked for it, and {approver or 'somebody unknown'} approved:"
            " nothing of the plan was done\nHINT: another user must approve; trigger a new run"
        )

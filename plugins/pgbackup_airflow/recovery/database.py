"""A database from a backup or of a moment, beside the present one; then, where that is wanted, in its place."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from pydantic import TypeAdapter

from pgbackup.domain.findings import advice
from pgbackup.recover import (
    CutOver,
    CutoverPlan,
    DatabasePlan,
    RecoveredDatabase,
    cut_over,
    cutover_plan_text,
    cutover_report_text,
    database_plan_text,
    database_report_text,
    hold_needed,
    only_database,
    plan_cutover,
    plan_database,
    recover_database,
    release_needed,
)
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.recovery.approval import RECOVER, granted, outcome
from pgbackup_airflow.recovery.choose import ChooseBackupOperator
from pgbackup_airflow.recovery.forms import overridden, read_moment, read_repository

CHOOSE, APPROVE_CUTOVER, CUTOVER = "choose", "approve_cutover", "cutover"
FIELDS = ("database", "backup", "moment", "name", "replace", "repository", "even_rejected")

_plans = TypeAdapter(DatabasePlan)
_recovered = TypeAdapter(RecoveredDatabase)
_cutover_plans = TypeAdapter(CutoverPlan)
_cutovers = TypeAdapter(CutOver)


class ChooseDatabaseBackupOperator(ChooseBackupOperator):
    """For a database."""

    allowed = FIELDS


class PlanDatabaseOperator(ProtocolOperator):
    """Judge what was asked for and plan it: whatever cannot be is refused here, before anybody is asked."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan, and its text."""
        refuse_unknown(context, allowed=FIELDS)
        params, backup_id = context["params"], context["ti"].xcom_pull(task_ids=CHOOSE)
        with self.site(context) as site:
            plan = plan_database(
                site,
                self.cluster,
                params["database"] or only_database(site, self.cluster, read_repository(params["repository"])),
                backup_id,
                target=read_moment(params["moment"]),
                name=params["name"] or None,
                repository=read_repository(params["repository"]),
                even_rejected=overridden(params["even_rejected"], backup_id),
            )
            hold_needed(site, self.cluster, plan.origin)
        text = database_plan_text(plan)
        self.log.info("the plan:\n%s", text)
        return {"plan": _plans.dump_python(plan, mode="json"), "text": text}


class RecoverDatabaseOperator(ProtocolOperator):
    """Carry out what was approved; what is not equal to its source keeps its unfinished name and fails the task."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was recovered."""
        answer = granted(context)
        with self.site(context) as site:
            self.log.info("approved %s", answer["approved"])
            plan = _plans.validate_python(answer["plan"])
            recovered = recover_database(site, plan)
            release_needed(site, plan.origin)
        if not recovered.ok:
            self.log.error("the report:\n%s", database_report_text(recovered, answer["approved"]))
            raise AirflowFailException(f"{recovered.name} is not equal to its source: {advice(recovered.findings)}")
        document: dict[str, Any] = _recovered.dump_python(recovered, mode="json")
        return document


class PlanCutoverOperator(ProtocolOperator):
    """Plan to put the new database in the place of the present one, when the form asks for that."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan (None: not asked for), and its text."""
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        if not context["params"]["replace"]:
            return {"plan": None, "text": "no cutover was asked for"}
        with self.site(context) as site:
            plan = plan_cutover(site, self.cluster, recovered.plan.database, recovered.name)
        text = f"{cutover_plan_text(plan)}\n\n{database_report_text(recovered, granted(context)['approved'])}"
        self.log.info("the plan of the cutover:\n%s", text)
        return {"plan": _cutover_plans.dump_python(plan, mode="json"), "text": text}


class CutoverOperator(ProtocolOperator):
    """Cut over as approved; fails when the application cannot work in the database that is in place now."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was done, nothing when nothing was asked for."""
        answer = granted(context, APPROVE_CUTOVER)
        if answer["plan"] is None:
            return {}
        approved = _cutover_plans.validate_python(answer["plan"])
        with self.site(context) as site:
            now = plan_cutover(site, self.cluster, approved.database, approved.restored)
            # A try that was killed behind the renaming left only the application to look at.
            done = cut_over(site, now if now.done else approved, reindex=bool(approved.collations))
        if not done.ok:
            self.log.error("the report:\n%s", cutover_report_text(done, answer["approved"]))
            raise AirflowFailException(f"{approved.restored} is in place: {advice(done.findings)}")
        document: dict[str, Any] = _cutovers.dump_python(done, mode="json")
        return document


class ReportDatabaseOperator(ProtocolOperator):
    """Write down what came back, where what was there before is, and what to do next; the mail holds the same."""

    def execute(self, context: Context) -> dict[str, str]:
        """Return the report."""
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        text = database_report_text(recovered, granted(context)["approved"])
        cutover = outcome(context, CUTOVER)
        if cutover:
            approved = granted(context, APPROVE_CUTOVER)["approved"]
            done = cutover_report_text(_cutovers.validate_python(cutover), approved)
            text = f"{done}\n\n**Before the cutover:**\n\n{text}"
        self.log.info("the report:\n%s", text)
        return {"text": text}

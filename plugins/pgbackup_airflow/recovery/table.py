"""A table from a backup or of a moment: its rows beside it, then, where that is wanted, in it."""

from __future__ import annotations

import dataclasses
from typing import Any

from airflow.sdk import Context
from pydantic import TypeAdapter

from pgbackup.domain.ports import Site
from pgbackup.recover import (
    Choice,
    PutPlan,
    RecoveredTable,
    TablePlan,
    Way,
    hold_needed,
    only_database,
    plan_put,
    plan_table,
    put,
    put_plan_text,
    recover_table,
    release_needed,
    table_choices,
    table_plan_text,
    table_report_text,
)
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.recovery.approval import APPROVE, RECOVER, granted, outcome
from pgbackup_airflow.recovery.choose import ChooseBackupOperator, ChooseOperator
from pgbackup_airflow.recovery.forms import overridden, read_moment, read_repository

CHOOSE_BACKUP, CHOOSE_TABLE = "choose_backup", "choose_table"
APPROVE_PUT, PUT = "approve_put", "put"
FIELDS = ("database", "table", "way", "backup", "moment", "repository", "even_rejected")

_plans = TypeAdapter(TablePlan)
_recovered = TypeAdapter(RecoveredTable)
_put_plans = TypeAdapter(PutPlan)


class ChooseTableBackupOperator(ChooseBackupOperator):
    """For a table."""

    allowed = FIELDS


class ChooseTableOperator(ChooseOperator):
    """Ask which of the tables that the chosen backup holds; for a moment, those of the newest verified one."""

    field = "table"
    allowed = FIELDS

    def choices(self, site: Site, context: Context) -> tuple[Choice, ...]:
        """List them by name, with their rows."""
        params, backup_id = context["params"], context["ti"].xcom_pull(task_ids=CHOOSE_BACKUP)
        database = params["database"] or only_database(site, self.cluster, read_repository(params["repository"]))
        return table_choices(site, self.cluster, database, backup_id, read_repository(params["repository"]))


class PlanTableOperator(ProtocolOperator):
    """Judge what was asked for and plan it: whatever cannot be is refused here, before anybody is asked."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan of the rows beside, and its text."""
        refuse_unknown(context, allowed=FIELDS)
        params, pull = context["params"], context["ti"].xcom_pull
        backup_id = pull(task_ids=CHOOSE_BACKUP)
        with self.site(context) as site:
            wanted = plan_table(
                site,
                self.cluster,
                params["database"] or only_database(site, self.cluster, read_repository(params["repository"])),
                pull(task_ids=CHOOSE_TABLE),
                backup_id,
                target=read_moment(params["moment"]),
                way=Way(params["way"]),  # whatever closes it is known before anybody is asked
                repository=read_repository(params["repository"]),
                even_rejected=overridden(params["even_rejected"], backup_id),
            )
            hold_needed(site, self.cluster, wanted.origin)
        plan = dataclasses.replace(wanted, way=Way.BESIDE)
        text = table_plan_text(plan)
        self.log.info("the plan:\n%s", text)
        return {"plan": _plans.dump_python(plan, mode="json"), "text": text}


class RecoverTableOperator(ProtocolOperator):
    """Carry out what was approved: the rows lie beside, or the table that was gone is there again."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was recovered."""
        answer = granted(context)
        with self.site(context) as site:
            self.log.info("approved %s", answer["approved"])
            plan = _plans.validate_python(answer["plan"])
            recovered = recover_table(site, plan)
            release_needed(site, plan.origin)
        document: dict[str, Any] = _recovered.dump_python(recovered, mode="json")
        return document


class PlanPutOperator(ProtocolOperator):
    """Plan to put the rows beside into the table, when the form asks for that and the table was not gone."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan (None: nothing to put), and its text."""
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        way = Way(context["params"]["way"])
        if way is Way.BESIDE:
            return {"plan": None, "text": "the rows were asked for beside"}
        if recovered.staged is None:
            return {"plan": None, "text": "the table was gone, and is there again with its rows"}
        with self.site(context) as site:
            plan = plan_put(site, recovered, way)
        text = put_plan_text(plan)
        self.log.info("the plan:\n%s", text)
        return {"plan": _put_plans.dump_python(plan, mode="json"), "text": text}


class PutOperator(ProtocolOperator):
    """Put the rows into the table as approved."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was done, nothing when nothing was asked for."""
        answer = granted(context, APPROVE_PUT)
        if answer["plan"] is None:
            return {}
        with self.site(context) as site:
            self.log.info("approved %s", answer["approved"])
            done = put(site, _put_plans.validate_python(answer["plan"]))
        document: dict[str, Any] = _recovered.dump_python(done, mode="json")
        return document


class ReportTableOperator(ProtocolOperator):
    """Write down where the rows are, and what to do next; the mail holds the same."""

    def execute(self, context: Context) -> dict[str, str]:
        """Return the report."""
        done = outcome(context, PUT)
        approved = granted(context, APPROVE_PUT if done else APPROVE)["approved"]
        text = table_report_text(_recovered.validate_python(done or outcome(context, RECOVER)), approved)
        self.log.info("the report:\n%s", text)
        return {"text": text}

"""### The rows of one table, beside it; then in it, if you ask for that

`choose_backup` → `choose_table` → `plan` → `approve` → `recover` → `plan_put` → `approve_put` → `put` → `report`:
brings the rows of one table of `<cluster>` into a new table beside it. **The table's own rows are not touched** before
a second approval. Trigger it and fill in the form.

1. `choose_backup`, `choose_table` wait for you, unless the form names them: open the run's **required action** and take
   what you need. With a moment in the form no backup is asked for; a side server is recovered to it first.
2. `plan` refuses what cannot be, and says why. `approve` waits for somebody: open the **required action**, read the
   plan, type the cluster's name, approve.
3. `recover` brings the rows into a table beside. A table that is **gone** is made again by its own name: that is all.
4. **In it?** As the form's *way* says: *in place* replaces its rows under its OID (views, grants, policies stay) and
   keeps the present ones in a table beside; *merge* only adds rows whose primary key is missing. `plan_put` is red when
   rows would refer to nothing, and lists them; `approve_put` asks again; `put` does it in one transaction.
5. `report` says where the rows are and what to do next; it is mailed.

**Rows were deleted by mistake?** *Merge*, from the moment just before. **Rows were changed?** *In place*, or *beside*
and take what you need with SQL.

**Red?** Read the red task's log. Rejected, or not answered in time: nothing of that plan was done. When the cause is
gone, clear the red task. `pgbackup recover old` lists the tables beside, with the statement that drops each.
"""

from airflow.sdk import Param

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.recovery.approval import ApproveOperator, RecoveryMail
from pgbackup_airflow.recovery.forms import backup_param, moment_param, name_param, rejected_param, repository_param
from pgbackup_airflow.recovery.table import (
    ChooseTableBackupOperator,
    ChooseTableOperator,
    PlanPutOperator,
    PlanTableOperator,
    PutOperator,
    RecoverTableOperator,
    ReportTableOperator,
)

WHAT, HOW, WHICH = "What to recover", "What to do with its rows", "Which copies"
PROCEDURE = "recover table"

configured = settings()
PARAMS = {
    "database": name_param("Database", "Which one. Empty: the only one that the newest verified backup holds.", WHAT),
    "table": Param(
        None,
        type=["null", "string"],
        pattern=r"^[^\x00-\x1f\x7f]{1,127}$",
        title="Table",
        description="As schema.table, without quotes: public.title. Empty: you choose one of those in the backup,"
        " in the run.",
        section=WHAT,
    ),
    "backup": backup_param(WHAT),
    "moment": moment_param(WHAT),
    "way": Param(
        "beside",
        type="string",
        enum=["beside", "in place", "merge"],
        values_display={
            "beside": "beside: into a new table, nothing else",
            "in place": "in place: replace all rows, keep the present ones beside",
            "merge": "merge: add the rows whose primary key is missing",
        },
        title="Way",
        description="A table that is gone is made again, whatever is chosen here.",
        section=HOW,
    ),
    "repository": repository_param(configured, WHICH),
    "even_rejected": rejected_param(WHICH),
}

for name, cluster in configured.clusters.items():
    asked = {"cluster": name, "recovery": cluster.recovery}
    with protocol_dag(
        "recover_table", name, schedule=None, due=None, doc=__doc__, params=PARAMS, notifier=RecoveryMail
    ):
        choose_backup = ChooseTableBackupOperator(task_id="choose_backup", subject=f"Which backup of {name}?", **asked)
        choose_table = ChooseTableOperator(task_id="choose_table", subject=f"Which table of {name}?", **asked)
        plan = PlanTableOperator(task_id="plan", cluster=name)
        approve = ApproveOperator(subject=f"Recover a table of {name}, as planned?", procedure=PROCEDURE, **asked)
        recover = RecoverTableOperator(task_id="recover", cluster=name)
        plan_put = PlanPutOperator(task_id="plan_put", cluster=name)
        approve_put = ApproveOperator(
            task_id="approve_put",
            plan="plan_put",
            subject=f"Change the rows of a table of {name}, as planned?",
            procedure=PROCEDURE,
            **asked,
        )
        put = PutOperator(task_id="put", cluster=name)
        report = ReportTableOperator(task_id="report", cluster=name)
        choose_backup >> choose_table >> plan >> approve >> recover >> plan_put >> approve_put >> put >> report

"""### A database as it was, beside the present one; in its place, if you ask for that

`choose` → `plan` → `approve` → `recover` → `plan_cutover` → `approve_cutover` → `cutover` → `report`: restores one
database of `<cluster>` under a new name, into the protected server, and compares it with its source.
**The present database is not touched** before a second approval. Trigger it and fill in the form.

1. `choose` waits for you: open the run's **required action** and take one of the verified backups. With a backup or a
   moment in the form nobody is asked. What was written since a backup does not come back; a moment takes longer: a side
   server is recovered to it first.
2. `plan` refuses what cannot be, and says why. Its log shows from what, under which name, how much.
3. `approve` waits for somebody: open the **required action**, read the plan, type the cluster's name, approve.
4. `recover` restores it and compares everything; its log tells each step. Red: it is **not** equal to its source, and
   keeps a name that begins with `restoring_`.
5. **In its place?** Only if the form says so: `plan_cutover` shows what will be renamed and how many sessions end,
   `approve_cutover` asks again, `cutover` renames, in one transaction, and asks the application's queries. The old
   database is kept under the name in the report. Otherwise these tasks say `no cutover was asked for`.
6. `report` says what came back and what to do with it; it is mailed.

**Red?** Read the red task's log. Rejected, or not answered in time: nothing of that plan was done. When the cause is
gone, clear the red task. `cutover` red: the log says which database is in place; `pgbackup recover cutover` goes on,
and `pgbackup recover old` lists what is kept, with the statement that drops it.
"""

from airflow.sdk import Param

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.recovery.approval import ApproveOperator, RecoveryMail
from pgbackup_airflow.recovery.database import (
    ChooseDatabaseBackupOperator,
    CutoverOperator,
    PlanCutoverOperator,
    PlanDatabaseOperator,
    RecoverDatabaseOperator,
    ReportDatabaseOperator,
)
from pgbackup_airflow.recovery.forms import backup_param, moment_param, name_param, rejected_param, repository_param

WHAT, WHERE, WHICH = "What to recover", "Where to put it", "Which copies"
PROCEDURE = "recover database"

configured = settings()
PARAMS = {
    "database": name_param("Database", "Which one. Empty: the only one that the newest verified backup holds.", WHAT),
    "backup": backup_param(WHAT),
    "moment": moment_param(WHAT),
    "name": name_param(
        "New name", "What it is called beside the present one. Empty: <database>_restored_<time>.", WHERE
    ),
    "replace": Param(
        False,
        type="boolean",
        title="Put it in place of the present one",
        description="After the restore, a second approval: then the new database takes the name of the present one,"
        " which is kept under another. Its sessions end.",
        section=WHERE,
    ),
    "repository": repository_param(configured, WHICH),
    "even_rejected": rejected_param(WHICH),
}

for name, cluster in configured.clusters.items():
    asked = {"cluster": name, "recovery": cluster.recovery}
    with protocol_dag(
        "recover_database", name, schedule=None, due=None, doc=__doc__, params=PARAMS, notifier=RecoveryMail
    ):
        choose = ChooseDatabaseBackupOperator(task_id="choose", subject=f"Which backup of {name}?", **asked)
        plan = PlanDatabaseOperator(task_id="plan", cluster=name)
        approve = ApproveOperator(subject=f"Restore into {name}, beside, as planned?", procedure=PROCEDURE, **asked)
        recover = RecoverDatabaseOperator(task_id="recover", cluster=name)
        plan_cutover = PlanCutoverOperator(task_id="plan_cutover", cluster=name)
        approve_cutover = ApproveOperator(
            task_id="approve_cutover",
            plan="plan_cutover",
            subject=f"Replace a database of {name}, as planned?",
            procedure=PROCEDURE,
            **asked,
        )
        cutover = CutoverOperator(task_id="cutover", cluster=name)
        report = ReportDatabaseOperator(task_id="report", cluster=name)
        choose >> plan >> approve >> recover >> plan_cutover >> approve_cutover >> cutover >> report

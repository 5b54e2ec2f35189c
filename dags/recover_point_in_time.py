"""### The cluster as it was at a moment, beside the one that is there; in its place, if you ask for that

`plan` → `approve` → `recover` → `plan_switch` → `approve_switch` → `switch` → `fresh_base` → `report`: makes a data
directory of `<cluster>` as it was at the moment that you choose, in a folder of its own. **The protected server is not
touched** before a second approval. Trigger it and fill in the form.

1. `plan` refuses what cannot be, and then says what can be reached. Its log shows the chain of backups, the WAL, every
   step with its predicted duration, and what will be lost.
2. `approve` waits for somebody: open the run's **required action**, read the plan, type the cluster's name, approve.
   Rejected, or not answered in time: the run is red, and nothing was touched.
3. `recover` makes it; its log tells each step. With a port in the form its server runs: look at it.
4. **In its place?** Only if the form says so: `plan_switch` shows what will be renamed and how many sessions end,
   `approve_switch` asks again, `switch` stops the present server, renames, starts, and asks the application's queries.
   The present data directory is kept. `fresh_base` triggers the full backup: there is a new timeline. Otherwise these
   tasks say `no switch was asked for`.
5. `report` says what came back and what to do with it; it is mailed.

**Which moment?** After an accident: one just before it. A deletion at 14:03:20 UTC is undone by the time 14:03:19.

**Red?** Read the red task's log. `recover`: when the cause is gone, clear that task, and it goes on where it stopped;
to give it up, remove the folder that the log names. `approve_switch`: rejected, or not answered in time: the present
server was not touched, and what was recovered is beside. `switch`: its log says which cluster is in place, how to go
on, and how to undo it.
"""

from airflow.sdk import Param

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.recovery.approval import ApproveOperator, RecoveryMail
from pgbackup_airflow.recovery.forms import repository_param
from pgbackup_airflow.recovery.point_in_time import (
    FreshBaseOperator,
    PlanPointInTimeOperator,
    PlanSwitchOperator,
    RecoverPointInTimeOperator,
    ReportPointInTimeOperator,
    SwitchOperator,
)

WHAT, WHERE, HISTORY = "What to recover to", "Where to put it", "Which backups and history"
PROCEDURE = "recover point in time"

configured = settings()
PARAMS = {
    "target": Param(
        "time",
        type="string",
        enum=["time", "latest", "lsn", "xid", "name"],
        values_display={
            "time": "a moment (fill in: Moment)",
            "latest": "the latest: all the WAL that there is",
            "lsn": "a position in the WAL (fill in: LSN)",
            "xid": "a transaction, and itself (fill in: Transaction)",
            "name": "a named restore point (fill in: Restore point)",
        },
        title="Target",
        description="Where replay stops. Fill in the one field that belongs to it, and leave the others empty.",
        section=WHAT,
    ),
    "time": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Moment",
        description="Everything that was committed up to this moment comes back. With its time zone:"
        " 2026-01-31T14:03:19Z is UTC.",
        section=WHAT,
    ),
    "lsn": Param(
        None,
        type=["null", "string"],
        pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$",
        title="LSN",
        description="Every record that begins before it comes back, such as 16/B374D848.",
        section=WHAT,
    ),
    "xid": Param(
        None,
        type=["null", "integer"],
        minimum=3,
        title="Transaction",
        description="The id of the last transaction that is to come back.",
        section=WHAT,
    ),
    "name": Param(
        None,
        type=["null", "string"],
        pattern=r"^[^\x00-\x1f\x7f]{1,63}$",
        title="Restore point",
        description="A name that was given to pg_create_restore_point().",
        section=WHAT,
    ),
    "folder": Param(
        None,
        type=["null", "string"],
        pattern=r"^/[A-Za-z0-9_.+/-]+$",
        title="Folder",
        description="The data directory to make, on the machine that runs this: it must not exist, or be empty."
        " Empty: a new one in the folder of recovered clusters (`paths.recovered`), or, to replace the present one,"
        " beside its data directory.",
        section=WHERE,
    ),
    "port": Param(
        None,
        type=["null", "integer"],
        minimum=1024,
        maximum=65535,
        title="Port",
        description="Start a server on it, on 127.0.0.1, which runs until somebody stops it, or until the switch."
        " Empty: none is started.",
        section=WHERE,
    ),
    "replace": Param(
        False,
        type="boolean",
        title="Put it in place of the present one",
        description="After the recovery, a second approval: then the present server is stopped, its data directory is"
        " renamed and kept, and the recovered one takes its place.",
        section=WHERE,
    ),
    "timeline": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Timeline",
        description="Another history than the newest one, such as the one before a failover. Empty: the newest.",
        section=HISTORY,
    ),
    "repository": repository_param(configured, HISTORY),
}

for name, cluster in configured.clusters.items():
    asked = {"cluster": name, "recovery": cluster.recovery}
    with protocol_dag(
        "recover_point_in_time", name, schedule=None, due=None, doc=__doc__, params=PARAMS, notifier=RecoveryMail
    ):
        plan = PlanPointInTimeOperator(task_id="plan", cluster=name)
        approve = ApproveOperator(subject=f"Recover {name} beside, as planned?", procedure=PROCEDURE, **asked)
        recover = RecoverPointInTimeOperator(task_id="recover", cluster=name)
        plan_switch = PlanSwitchOperator(task_id="plan_switch", cluster=name)
        approve_switch = ApproveOperator(
            task_id="approve_switch",
            plan="plan_switch",
            subject=f"Put the recovered cluster in the place of {name}?",
            procedure=PROCEDURE,
            **asked,
        )
        switch = SwitchOperator(task_id="switch", cluster=name)
        fresh_base = FreshBaseOperator(task_id="fresh_base", cluster=name)
        report = ReportPointInTimeOperator(task_id="report", cluster=name)
        plan >> approve >> recover >> plan_switch >> approve_switch >> switch >> fresh_base >> report

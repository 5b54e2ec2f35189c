"""### Everything is gone: bring `<cluster>` back, by the protocol's five phases

On a machine with this software, the private key, and **one repository that can be reached**; an empty catalog is filled
from it. Trigger it, and fill in the form: what happened, and **when**, from which on loss and time are counted.

| phase | minutes | what it does |
|---|---|---|
| assessment | 15 | what is left and how far it reaches; a plan; whether its files, WAL and keys can be used |
| preparation | 30 | **asks you to approve the plan**; then space and port, the catalog, a mail to everybody |
| recovery | 120 | restores into a new folder, reads every page, starts a server on the port of the form |
| validation | 60 | the application's queries, every table and foreign key, times; try it yourself meanwhile |
| cutover | 15 | **asks you to approve the switch**; then switches, watches, triggers a fresh base, reports |

**Nothing is touched before an approval.** A phase that is late is mailed. The journal and the report are kept in
`.incidents` of the local repository, whatever becomes of the run; the report is mailed, too.

**Red?** Read the red task's log, remove the cause, clear that task: the recovery goes on where it stopped.

- `plan`: nothing reaches that moment, the folder or the port is taken, or there is not enough space: the log says what.
- `approve`, `approve_switch`: rejected, or nobody answered: nothing of that plan was done.
- `monitor`: what answers as `<cluster>` is not the recovered one. Without `control` in the configuration people have to
  switch: the log of `switch` says how, step by step; clear `monitor` when that is done.
- `document`: the recovery is done, and something that was found does not hold: the report says what, and what to do.
"""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.recovery.disaster import (
    CUTOVER,
    ApproveDisasterOperator,
    DisasterOperator,
    PlanSwitchOperator,
    phase_group,
)
from pgbackup_airflow.recovery.forms import repository_param
from pgbackup_airflow.recovery.incident import DisasterMail, phase_deadlines

WHAT, TARGET, WHERE = "What happened", "What to recover to", "Where to put it"

configured = settings()
PARAMS = {
    "what": Param(
        "",
        type="string",
        minLength=3,
        title="What happened",
        description="In a few words, for the report: the machine does not start; somebody deleted the volume.",
        section=WHAT,
    ),
    "happened_at": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="When it happened",
        description="Loss and time are counted from then on. With its time zone: 2026-01-31T14:03:19Z is UTC."
        " Empty: from when this is triggered.",
        section=WHAT,
    ),
    "target": Param(
        "latest",
        type="string",
        enum=["latest", "time"],
        values_display={
            "latest": "the latest: all that is left",
            "time": "a moment before the damage (fill in: Moment)",
        },
        title="Target",
        section=TARGET,
    ),
    "time": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Moment",
        description="Everything that was committed up to this moment comes back.",
        section=TARGET,
    ),
    "repository": repository_param(configured, TARGET),
    "folder": Param(
        None,
        type=["null", "string"],
        pattern=r"^/[A-Za-z0-9_.+/-]+$",
        title="Folder",
        description="The data directory to make. Empty: a new one in the folder of recovered clusters"
        " (`paths.recovered`); to be switched to, it has to be on the filesystem of production's.",
        section=WHERE,
    ),
    "port": Param(
        5433,
        type="integer",
        minimum=1024,
        maximum=65535,
        title="Port",
        description="Where the recovered server can be tried on 127.0.0.1, until the switch.",
        section=WHERE,
    ),
}

for name, cluster in configured.clusters.items():
    asked = {"cluster": name, "recovery": cluster.recovery}
    with protocol_dag(
        "disaster_recovery",
        name,
        schedule=None,
        due=None,
        doc=__doc__,
        params=PARAMS,
        notifier=DisasterMail,
        deadlines=phase_deadlines(name, configured),
    ):
        with phase_group("assessment"):
            assess = DisasterOperator(task_id="assess_scope", cluster=name)
            plan = DisasterOperator(task_id="plan", cluster=name)
            available = DisasterOperator(task_id="verify_availability", cluster=name)
        with phase_group("preparation"):
            approve = ApproveDisasterOperator(subject=f"Recover {name} after a disaster, as planned?", **asked)
            provision = DisasterOperator(task_id="provision", cluster=name)
            prepare = DisasterOperator(task_id="prepare_files", cluster=name)
            notify = DisasterOperator(task_id="notify_stakeholders", cluster=name)
        with phase_group("recovery"):
            restore = DisasterOperator(task_id="restore", cluster=name)
            integrity = DisasterOperator(task_id="verify_integrity", cluster=name)
            connectivity = DisasterOperator(task_id="test_connectivity", cluster=name)
        with phase_group("validation"):
            functions = DisasterOperator(task_id="test_functions", cluster=name)
            data = DisasterOperator(task_id="validate_data", cluster=name)
            performance = DisasterOperator(task_id="test_performance", cluster=name)
        with phase_group("cutover"):
            plan_switch = PlanSwitchOperator(cluster=name)
            approve_switch = ApproveDisasterOperator(
                **CUTOVER, subject=f"Put the recovered cluster in the place of {name}?", **asked
            )
            switch = DisasterOperator(task_id="switch", cluster=name)
            monitor = DisasterOperator(task_id="monitor", cluster=name)
            base = TriggerDagRunOperator(
                task_id="trigger_fresh_base", trigger_dag_id=f"{name}_full_backup", logical_date=None
            )
            document = DisasterOperator(task_id="document", cluster=name)
        assess >> plan >> available >> approve >> provision >> prepare >> notify
        notify >> restore >> integrity >> connectivity >> functions >> data >> performance
        performance >> plan_switch >> approve_switch >> switch >> monitor >> base >> document

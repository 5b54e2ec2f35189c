"""### The recovery drill

`choose` → `full`, `point_in_time`, `table`, one after the other → `report`: recovers `<cluster>` in three ways **into
isolation**, answers the protocol's seven-point checklist for each, measures how long it took and how much would be
lost, and removes everything. **Production is not touched.** Quarterly, and by hand: the form asks for the scenarios.

- `full`: the newest verified full backup, restored into a throw-away server and compared with its fingerprints.
- `point_in_time`: a moment between two heartbeats: the first one must be back, the second one must not.
- `table`: one table alone, out of the dump, compared with its fingerprint.

**Green**: every item holds, within the objectives. **Red**: a scenario failed; the others ran all the same. The mail
says which item, why, and what to do: count on no recovery of that kind until it is repaired. Then run it again.
The report is kept in `.reports` of the local repository; the Recovery page shows it.
`pgbackup drill list` shows all drills; `wal_watch` tells when none was done for too long.
"""

from airflow.sdk import Param

from pgbackup_airflow.drill import ChooseScenariosOperator, DrillMail, DrillOperator, ReportDrillOperator, Scenario
from pgbackup_airflow.protocol import protocol_dag, settings

PARAMS = {
    "scenarios": Param(
        list(Scenario),
        type="array",
        items={"type": "string", "enum": list(Scenario)},
        examples=list(Scenario),
        values_display={one.value: one.label for one in Scenario},
        title="Scenarios",
        description="What to drill; all of them by default.",
    ),
}

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "recovery_drill",
        name,
        schedule=cluster.drill.schedule,
        due=cluster.drill.due,
        doc=__doc__,
        params=PARAMS,
        notifier=DrillMail,
    ) as dag:
        dag.max_active_tasks = 1  # what runs beside a drill would be measured with it
        drills = [
            DrillOperator(cluster=name, scenario=one, priority_weight=number)
            for number, one in enumerate(reversed(Scenario), start=1)
        ]
        ChooseScenariosOperator(cluster=name) >> drills >> ReportDrillOperator(cluster=name)

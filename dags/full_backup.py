"""### The nightly full backup

`preflight` → `dump` → `verify`: checks rights, versions, space and keys; dumps every database and the globals of
`<cluster>` at locked snapshots, with fingerprints of every table beside the dump; queues the verification.

**Green** means: captured and durable. Whether the backup *counts* is the colour of `<cluster>_verify_backup`.

**Red?** Open the red task's log: it says what, where and what to do. Nothing half-published is left; the last
verified backup is untouched (`pgbackup list`). When the cause is gone, clear the task or trigger a new run.
"""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from pgbackup_airflow.operators import DumpOperator, PreflightOperator
from pgbackup_airflow.protocol import full_backup_asset, protocol_dag, settings

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "full_backup", name, schedule=cluster.full_backup.schedule, due=cluster.full_backup.due, doc=__doc__
    ):
        preflight = PreflightOperator(task_id="preflight", cluster=name)
        dump = DumpOperator(task_id="dump", cluster=name, asset=full_backup_asset(name))
        dumped = {
            key: f"{{{{ ti.xcom_pull(task_ids='dump').{key} }}}}" for key in ("backup_id", "repository", "attempt")
        }
        verify = TriggerDagRunOperator(
            task_id="verify",
            trigger_dag_id=f"{name}_verify_backup",
            trigger_run_id="__".join(("verify", *dumped.values())),
            conf={"backup_id": dumped["backup_id"], "repository": dumped["repository"]},
            logical_date=None,
            skip_when_already_exists=True,
        )
        preflight >> dump >> verify

"""### The night's backups

`preflight` → `backup` → `verify`: checks rights, versions, space and keys; takes a physical base backup of `<cluster>`,
then locked snapshots of every database, and at these the dump with fingerprints of every table; queues a verification
of each.

**Green** means: captured and durable. Whether a backup *counts* is the colour of `<cluster>_verify_backup`.

**Red?** Open the red task's log: it says what, where and what to do. Nothing half-published is left; the last
verified backup is untouched (`pgbackup list`). When the cause is gone, clear the task or trigger a new run.
"""

from pgbackup_airflow.operators import BackupOperator, PreflightOperator, queue_verifications
from pgbackup_airflow.protocol import backup_asset, protocol_dag, settings

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "full_backup", name, schedule=cluster.full_backup.schedule, due=cluster.full_backup.due, doc=__doc__
    ):
        preflight = PreflightOperator(task_id="preflight", cluster=name)
        backup = BackupOperator(task_id="backup", cluster=name, asset=backup_asset(name, "full"))
        preflight >> backup >> queue_verifications(name, backup)

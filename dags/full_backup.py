"""### The night's backups

`preflight` → `backup` → `verify`, `copy`, `sheet`: checks rights, versions, space and keys; takes a physical base
backup of `<cluster>`, then locked snapshots of every database, and at these the dump with fingerprints of every table;
queues a verification of each. One `copy` task per repository then brings there what it lacks, all of them at the same
time; `sheet` writes the recovery sheet and the sealed configuration to every repository, if they changed.

**Green** means: captured, durable and off-site. Whether a backup *counts* is the colour of `<cluster>_verify_backup`.

**Red?** Open the red task's log: it says what, where and what to do. Nothing half-published is left; the last
verified backup is untouched (`pgbackup list`). When the cause is gone, clear the task or trigger a new run. A red
`copy` or `sheet` delays no other repository: clear it, or wait for the next run, which copies all that is missing
(`pgbackup copies`).
"""

from pgbackup_airflow.copies import copy_backups
from pgbackup_airflow.operators import BackupOperator, PreflightOperator, queue_verifications
from pgbackup_airflow.protocol import backup_asset, protocol_dag, settings
from pgbackup_airflow.sheet import SheetOperator

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "full_backup", name, schedule=cluster.full_backup.schedule, due=cluster.full_backup.due, doc=__doc__
    ):
        preflight = PreflightOperator(task_id="preflight", cluster=name)
        backup = BackupOperator(
            task_id="backup", cluster=name, asset=backup_asset(name, "full"), pool=settings().capture_pool
        )
        sheet = SheetOperator(task_id="sheet", cluster=name)
        preflight >> backup >> [queue_verifications(name, backup), *copy_backups(name), sheet]

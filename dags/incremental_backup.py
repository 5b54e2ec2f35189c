"""### What changed since the last physical backup

`preflight` → `backup` → `verify`, `copy`, `reach latest`: takes the changed blocks since the last physical backup of
`<cluster>` where the server knows them (PostgreSQL 17 with `summarize_wal`), a gap-checked bundle of its archived WAL
elsewhere; with locked snapshots and fingerprints of its own, so that the whole chain is proved equal to the source.
Queues that verification; one `copy` task per repository brings there what it lacks, earlier backups included.

`reach latest` recovers the newest archived moment in isolation and removes it again, once a day: its log says what came
back, how far behind it was and how long it took, or which run did that today. `pgbackup verify-latest` does the same.

A **base** is taken instead when no incremental can stand: no base yet, the last one rejected, another timeline or
system, no WAL summaries, a gap in the archive, or a chain that is long enough. The task's log says which.

**Red?** Open the red task's log: it says what, where and what to do. The chain so far is untouched, and WAL archiving
goes on by itself; the next run takes everything since the last good backup. `reach latest` red: what was written since
the last verified backup would be lost with the server, until what its log names is repaired.
"""

from pgbackup_airflow.copies import copy_backups
from pgbackup_airflow.latest import VerifyLatestOperator
from pgbackup_airflow.operators import IncrementalBackupOperator, PreflightOperator, queue_verifications
from pgbackup_airflow.protocol import backup_asset, protocol_dag, settings

for name, cluster in settings().clusters.items():
    options = cluster.incremental_backup
    with protocol_dag("incremental_backup", name, schedule=options.schedule, due=options.due, doc=__doc__):
        preflight = PreflightOperator(task_id="preflight", cluster=name)
        backup = IncrementalBackupOperator(
            task_id="backup", cluster=name, asset=backup_asset(name, "incremental"), pool=settings().capture_pool
        )
        latest = VerifyLatestOperator(task_id="latest", task_display_name="reach latest", cluster=name)
        preflight >> backup >> [queue_verifications(name, backup), *copy_backups(name), latest]

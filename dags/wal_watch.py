"""### The watch over the WAL archive

Every few minutes one task asks whether `<cluster>` can be recovered up to this moment: does the archive have a gap, or
two contents under one name; does the replication slot keep what is missing (or does `archive_command` work); is the
receiver alive; how much WAL does the server keep for it; how far is the archive behind, how much would be lost now; is
there a verified backup of the last 26 hours; was each kind of recovery drilled lately.

**Green**: all of it holds. **Red**: the task's log names each finding that does not, what it means and what to do;
`pgbackup watch` asks the same from a shell. A mail goes out when a finding begins to fail, and one when it holds again:
no second mail does not mean that it is over, the colour says that.

**Gap, lost slot?** Save what is missing from the server's `pg_wal` if it is still there. Then run
`<cluster>_full_backup`: from its base on every moment can be reached again. **Receiver dead?** Start it; until then the
server keeps the WAL, and its disk fills.
"""

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.watch import RUN_LIMIT, WatchNotifier, WatchOperator

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "wal_watch",
        name,
        schedule=cluster.wal.watch,
        due=None,
        doc=__doc__,
        timeout=RUN_LIMIT,
        notifier=WatchNotifier,
    ):
        WatchOperator(task_id="watch", cluster=name)

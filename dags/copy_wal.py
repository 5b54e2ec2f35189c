"""### WAL off-site

Every few minutes one `copy` task per repository brings there the sealed WAL of `<cluster>` that it lacks, oldest first:
what is there can always be recovered to without a gap.

**Green**: each repository has all that was sealed when the run began. **Red**: a repository did not answer or refused;
the others have theirs, and the next run goes on where this one stopped. No mail comes from here: `<cluster>_wal_watch`
tells when a repository is too far behind, and when it has caught up. `pgbackup copies` shows how far each one is,
`pgbackup copy` does the same as these tasks.
"""

from pgbackup_airflow.copies import LeftToTheWatch, copy_sealed
from pgbackup_airflow.protocol import protocol_dag, settings

for name, cluster in settings().clusters.items():
    if settings().repositories:
        with protocol_dag(
            "copy_wal", name, schedule=cluster.copies.schedule, due=None, doc=__doc__, notifier=LeftToTheWatch
        ):
            copy_sealed(name)

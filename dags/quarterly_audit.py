"""### The storage audit

On the first Monday of each quarter: one task for this machine and one for each repository, `local` included, asks
whether what `<cluster>` depends on is private, encrypted, whole, where it should be, and nothing else. **Nothing is
changed**, and no data are downloaded: the beginning of each object is read.

- *This machine*: who can read keys, passwords and logs; keys that expire soon; rights that the backup's role needs not.
- *Every repository*: encryption, for today's recipients alone; missing, damaged, orphaned and unknown objects; what
  the catalog, the listing and the other repositories say about each other.
- *A folder*: modes 0700 and 0600, owners, links and mounts. *A bucket*: versions, object lock as configured, public
  access, encryption at rest, what the credentials can do besides.

Each task's log, its report (in `.reports` of the local repository, and on the Recovery page) and the mail show the
findings as a table with what to do about each. *failure* makes the task red;
*warning* and *unknown* (the storage does not tell) do not.

**Red?** Mend what the table says, then clear the task, or run `pgbackup audit`. *The repository can be read* failed:
it did not answer, and was not judged any further.
"""

from pgbackup_airflow.audit import AuditMail, audit_storage
from pgbackup_airflow.protocol import protocol_dag, settings

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "quarterly_audit", name, schedule=cluster.audit.schedule, due=None, doc=__doc__, notifier=AuditMail
    ):
        audit_storage(name)

"""### Monthly rotation

On the first of the month: the first verified dump of each month stays as *monthly*, of each year as *yearly*; what
has outlived its months goes.

`repositories` → `plan` → `delete`, each repository by itself. The plan's log is a table: each backup of `<cluster>`
with the rules that keep it, or none, and the bytes that are freed; the mail shows it, too. Promotion is a rule's
name: nothing is copied. All three rotation DAGs apply the same rules (`retention` in protocol.yaml); one that was
missed is made up for by the next. Only verified backups count, and ages are counted to the newest verified one: while
new backups fail, nothing is deleted. What is held (`pgbackup hold add`), or used by a recovery, stays.

**Red?** Nothing that a rule keeps was touched. The red task's log says what could not be deleted and why; the next
run tries again. *The catalog does not know what a repository holds*: `pgbackup catalog rebuild --from` it. *A
repository does not show backups that the catalog has there*: nothing is deleted while it loses any; `pgbackup verify`
says which are lost. *Damaged*, *left alone*: that backup stays, and counts for nothing: verify it, or another copy.
`delete` waits while a backup of `<cluster>` runs.
"""

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.rotation import RotationMail, rotate_repositories

for name in settings().clusters:
    with protocol_dag("monthly_rotation", name, schedule="0 5 1 * *", due=None, doc=__doc__, notifier=RotationMail):
        rotate_repositories(name)

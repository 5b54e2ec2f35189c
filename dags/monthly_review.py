"""### The monthly review

`review` goes through the protocol's monthly list for `<cluster>`: *review backup retention policy* (the rules against
the protocol's, and as they are applied in each repository), *archive old backups* (those older than a month are in
every repository), *update recovery procedures* (a recovery sheet in each repository, people who can be called),
*review disaster recovery plan* (measured and predicted RTO and RPO against the objectives, drills, copies, incidents);
then the health checks: last backup time, sizes of databases and tables, growth, with plots. **Nothing is changed.**

The report is mailed, and kept in `.reports` of the local repository, as HTML and Markdown; the Recovery page shows it.

**Red?** Each finding that does not hold says what to do; then clear the task, or run `pgbackup review monthly`.
*warning* is what somebody may have decided otherwise: it makes nothing red.
"""

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.review import Period, ReviewMail, ReviewOperator

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "monthly_review", name, schedule=cluster.reviews.monthly, due=None, doc=__doc__, notifier=ReviewMail
    ):
        ReviewOperator(cluster=name, period=Period.MONTHLY)

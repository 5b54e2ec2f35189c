"""### The weekly review

`test_mail` sends a test message by every way that alerts go. `review` goes through the protocol's weekly list for
`<cluster>`: *verify backup completion* (a verified backup every day), *check backup file sizes* (against the manifests,
and what is usual), *review backup logs*, *test backup restoration* (every backup, and a copy in each repository, was
restored and compared); then the health checks: last backup time, sizes of databases and tables, growth, with plots.
**Nothing is changed.**

The report is mailed, and kept in `.reports` of the local repository, as HTML and Markdown; the Recovery page shows it.

**Red?** `review`: each finding that does not hold says what to do; then clear the task, or run
`pgbackup review weekly`. `test_mail`: alerts reach nobody by that way; repair the mail server or the connection, then
clear the task.
"""

from pgbackup_airflow.protocol import protocol_dag, settings
from pgbackup_airflow.review import Period, ReviewMail, ReviewOperator, TestMailOperator

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "weekly_review", name, schedule=cluster.reviews.weekly, due=None, doc=__doc__, notifier=ReviewMail
    ):
        TestMailOperator(cluster=name)
        ReviewOperator(cluster=name, period=Period.WEEKLY)

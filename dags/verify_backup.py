"""### The restore test

`choose` → for each copy: `files` → `restore` → `contents`: fetches it, checks every byte, decrypts it, restores it
into a throw-away server and compares everything with its source.

Runs for every backup (`verify__<id>__<repository>__<attempt>`), at 05:00 UTC for whatever was missed and for the copy
of each repository that was proved longest ago, and by hand with a backup id.

**Green** means *verified*: restored and found equal. **Red** means either *rejected* (the backup is not equal to its
source: take a new one now) or *no verdict* (this machine could not judge: it retries, then says what it lacks).
`pgbackup show ID` prints every finding.
"""

from airflow.sdk import Param, task_group

from pgbackup_airflow.operators import (
    CheckFilesOperator,
    ChooseCopiesOperator,
    DiscardOperator,
    IntegrityCheckOperator,
    RestoreOperator,
)
from pgbackup_airflow.protocol import protocol_dag, settings

PARAMS = {
    "backup_id": Param(
        None,
        type=["null", "string"],
        pattern=r"^[a-z][a-z0-9_-]{0,30}_\d{8}_\d{6}_(full|base|incr)$",
        title="Backup",
        description="Which backup to prove, such as streamflix_20260131_020000_full (`pgbackup list` prints the ids)."
        " Empty: what was missed, and of each repository the copy that was proved longest ago.",
    ),
    "repository": Param("local", type=["null", "string"], title="Repository", description="Which copy of it."),
}

for name, cluster in settings().clusters.items():
    with protocol_dag(
        "verify_backup", name, schedule=cluster.verify_backup.schedule, due=None, doc=__doc__, params=PARAMS
    ):

        @task_group(group_id="prove")
        def prove(backup_id: str, repository: str, cluster: str) -> None:
            """Prove one copy."""
            copy = {"backup_id": backup_id, "repository": repository, "cluster": cluster}
            copy["map_index_template"] = "{{ task.backup_id }} in {{ task.repository }}"
            files = CheckFilesOperator(task_id="files", task_display_name="check files", **copy)
            proof = {**copy, "attempt": files.output}
            restore = RestoreOperator(task_id="restore", task_display_name="restore", **proof)
            contents = IntegrityCheckOperator(task_id="contents", task_display_name="compare with the source", **proof)
            discard = DiscardOperator(task_id="discard", task_display_name="clean up", **proof).as_teardown()
            files >> restore >> contents >> discard

        choose = ChooseCopiesOperator(task_id="choose", task_display_name="choose copies", cluster=name)
        prove.partial(cluster=name).expand_kwargs(choose.output)

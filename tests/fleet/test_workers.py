"""Workers on other machines: lost, silent, cut off; and whatever happens, no run is green over it, nor silent."""

from __future__ import annotations

import pytest

from pgbackup.domain.model import State
from pgbackup.watch import names
from tests.airflow_e2e.hold import Hold
from tests.airflow_e2e.processes import programs
from tests.airflow_e2e.rest import Run, eventually
from tests.airflow_e2e.stack import BRANCH
from tests.airflow_e2e.test_runs import committed, directories, held_dump
from tests.fleet.stack import POOL, QUEUES, FleetStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]  # the first test waits for Airflow


def mails(stack: FleetStack, *words: str) -> list[str]:
    """The mails of a watch whose subject or text has all the words."""
    found = [mail for mail in stack.mailbox.mails if "watch" in mail.subject or "watch" in mail.text]
    return [mail.text for mail in found if all(word in mail.subject + mail.text for word in words)]


def proved(stack: FleetStack, backup_id: str) -> Run:
    """The run that a backup's own run triggers, at its end."""
    run = Run(stack.rest, f"{backup_id.partition('_')[0]}_verify_backup", f"verify__{backup_id}__local__1")
    assert run.wait() == "success", run.logs()
    return run


def test_a_queue_that_nobody_serves_is_told_before_anybody_misses_it(stack: FleetStack) -> None:
    """By mail, on the page and by `pgbackup doctor`, with the queue's name; and that somebody serves it again."""
    run = stack.rest.finish(f"{BRANCH}_wal_watch")
    assert run.state == "failed"
    (text,) = eventually(lambda: mails(stack, BRANCH, "FAILED", names.FINISHED), "a mail of the watch")
    assert f"no worker took the task of {run.owner} from queue '{QUEUES[BRANCH]}'" in text
    assert f"start a worker of queue '{QUEUES[BRANCH]}'" in text
    (known,) = [one for one in stack.site().catalog.watched(BRANCH) if one.name == names.FINISHED]
    assert not known.ok

    stack.start_worker("third", QUEUES[BRANCH])
    stack.rest.finish(f"{BRANCH}_wal_watch")
    eventually(lambda: mails(stack, BRANCH, "holds again", names.FINISHED), "a mail that it works again")


def test_a_worker_takes_the_tasks_of_its_own_clusters_alone(stack: FleetStack) -> None:
    stack.start_worker("first", QUEUES["streamflix"])
    other = stack.rest.trigger("library_wal_watch")
    eventually(lambda: other.tasks()["watch"]["state"] == "queued", "a task in the queue")
    stack.rest.finish("streamflix_wal_watch")
    assert other.tasks()["watch"]["state"] == "queued"
    assert other.tasks()["watch"]["queue"] == QUEUES["library"]
    stack.start_worker("second", QUEUES["library"])
    other.wait()
    assert names.SLOT in other.logs(), "it judged"


def test_no_more_captures_at_once_than_the_pool_has_slots(stack: FleetStack) -> None:
    """And nothing else waits for them: the other cluster is watched meanwhile."""
    stack.start_worker("both", QUEUES["streamflix"], QUEUES["library"])
    with Hold(stack.protected) as hold:
        first, _ = held_dump(stack, hold)
        second = stack.rest.trigger("streamflix_full_backup")
        eventually(lambda: second.tasks()["backup"]["state"] == "scheduled", "a capture that waits for its turn")
        watch = stack.rest.finish("streamflix_wal_watch")
        assert names.SLOT in watch.logs()
        assert second.tasks()["backup"]["state"] == "scheduled"
        assert stack.rest.get(f"/pools/{POOL}")["occupied_slots"] == 1
    assert first.wait() == "success", first.logs()
    assert second.wait() == "success", second.logs()
    for run in (first, second):
        for backup in stack.site().catalog.backups_of(run.owner):
            proved(stack, backup.id)


def test_a_backup_whose_worker_is_lost_ends_on_another_one(stack: FleetStack) -> None:
    before = committed(stack, "library")
    stack.start_worker("second", QUEUES["library"])
    with Hold(stack.protected) as hold:
        run, _ = held_dump(stack, hold)
        stack.lose_worker("second")
        assert not programs(stack.home, "pg_dump", "gpg")
    stack.start_worker("another", QUEUES["library"])
    assert run.wait() == "success", run.logs()
    assert run.tasks()["backup"]["try_number"] == 2
    good, lost = stack.site().catalog.backups_of(run.owner)
    assert lost.state is State.FAILED
    assert committed(stack, "library") == directories(stack, "library") == {*before, good.id}
    proved(stack, good.id)


def test_a_backup_goes_on_while_the_broker_restarts(stack: FleetStack) -> None:
    stack.start_worker("second", QUEUES["library"])
    with Hold(stack.protected) as hold:
        run, _ = held_dump(stack, hold)
        stack.broker.kill()
        later = stack.rest.trigger("library_wal_watch")
        stack.broker.start()
    assert run.wait() == "success", run.logs()
    assert run.tasks()["backup"]["try_number"] == 1
    (backup,) = stack.site().catalog.backups_of(run.owner)
    proved(stack, backup.id)
    later.wait()
    assert stack.rest.finish("library_full_backup").state == "success"


def test_a_recovery_goes_on_while_the_scheduler_restarts(stack: FleetStack) -> None:
    """Killed while people are asked, and again while it recovers."""
    stack.start_worker("second", QUEUES["library"])
    (backup, *_) = [one for one in stack.site().catalog.backups("library") if one.state is State.VERIFIED]
    run = stack.rest.trigger("library_recover_table", {"backup": backup.id, "table": "public.book"})
    run.wait_for_question()
    stack.kill_scheduler()
    run.answer(stack.colleague, "Approve", "library")
    stack.start_scheduler()
    eventually(lambda: run.tasks()["recover"]["state"] == "running" or run.state == "failed", "the recovery")
    stack.kill_scheduler()
    stack.start_scheduler()
    assert run.wait() == "success", run.logs()
    assert {task["state"] for task in run.tasks().values()} == {"success"}
    with stack.protected.connect("library") as connection:
        found = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'book_restored_%'").fetchall()
        assert len(found) == 1
        assert connection.execute(f'SELECT count(*) FROM "{found[0][0]}"').fetchone() == (4000,)

"""One Airflow for all tests that need a real scheduler."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from pgbackup.domain.model import Verdict
from pgbackup.recover.control import works_in
from tests.airflow_e2e.backups import damage, proved, take
from tests.airflow_e2e.processes import ArgvWatch
from tests.airflow_e2e.rest import Run, eventually
from tests.airflow_e2e.stack import CLUSTERS, Stack, running_stack
from tests.support.source import Source


@dataclass(frozen=True)
class Night:
    """A run of the night, and the run that verified each of its backups, by id."""

    capture: Run
    verifications: dict[str, Run]

    @property
    def full(self) -> str:
        """The id of the dump."""
        (backup_id,) = [backup_id for backup_id in self.verifications if backup_id.endswith("_full")]
        return backup_id


@dataclass(frozen=True)
class Backups:
    """Ids: of a backup that was verified, of one that was and may vanish, of one that was rejected."""

    verified: str
    going: str
    rejected: str


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """Airflow, its servers, two regions and a mailbox; two clusters to back up, whose WAL was copied once."""
    with running_stack() as running:
        for name in CLUSTERS:
            copied = running.rest.finish(f"{name}_copy_wal")
            assert copied.state == "success", copied.logs()
        yield running


@dataclass(frozen=True)
class Branch:
    """The server that may be lost, or replaced by one that somebody else started."""

    source: Source
    password: str

    def books(self, **keywords: Any) -> int:
        """Count what is in it, or, by other keywords, in another one."""
        given = {"host": "127.0.0.1", "port": self.source.port, "password": self.password, **keywords}
        with psycopg.connect(user="postgres", dbname="library", **given) as connection:
            row = connection.execute("SELECT count(*) FROM book").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture(scope="module")
def branch(stack: Stack) -> Iterator[Branch]:
    """That server, running; whoever started the one that is there in the end, it is ended."""
    source = stack.branch
    if not works_in(source.data):
        source.start()
    yield Branch(source, stack.passwords["recovery"])
    source.stop(signal.SIGQUIT)
    if works_in(source.data):
        os.kill(int((source.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        eventually(lambda: not works_in(source.data), "the end of the server")


@pytest.fixture(scope="package")
def backups(stack: Stack) -> Backups:
    """Backups of `library`, one of each fate."""
    backup = {name: take(stack) for name in ("verified", "going", "rejected")}
    damage(stack, backup["rejected"])
    verdicts = {name: proved(stack, backup_id) for name, backup_id in backup.items()}
    assert verdicts == {"verified": Verdict.VERIFIED, "going": Verdict.VERIFIED, "rejected": Verdict.REJECTED}
    return Backups(**backup)


@pytest.fixture(scope="package")
def argv_watch(stack: Stack) -> Iterator[ArgvWatch]:
    """Looks at the machine's command lines from before the first run until the tests end."""
    watch = ArgvWatch(stack.secrets)
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture(scope="package")
def night(stack: Stack, argv_watch: ArgvWatch) -> Night:
    """What happens at 02:00: the backups of `streamflix`, then the restore test of each."""
    capture = stack.rest.finish("streamflix_full_backup")
    assert capture.state == "success", capture.logs()
    ids = [backup.id for backup in stack.site().catalog.backups_of(capture.owner)]
    dag_id = "streamflix_verify_backup"
    verifications = {one: Run(stack.rest, dag_id, f"verify__{one}__local__1") for one in ids}
    for run in verifications.values():
        assert run.wait() == "success", run.logs()
    return Night(capture, verifications)

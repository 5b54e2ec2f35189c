"""One Airflow for all tests that need a real scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.airflow_e2e.processes import ArgvWatch
from tests.airflow_e2e.rest import Run
from tests.airflow_e2e.stack import CLUSTERS, Stack, running_stack


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


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """Airflow, its servers, two regions and a mailbox; two clusters to back up, whose WAL was copied once."""
    with running_stack() as running:
        for name in CLUSTERS:
            copied = running.rest.finish(f"{name}_copy_wal")
            assert copied.state == "success", copied.logs()
        yield running


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

"""One Airflow for all tests that need a real scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.airflow_e2e.processes import ArgvWatch
from tests.airflow_e2e.rest import Run
from tests.airflow_e2e.stack import Stack, running_stack


@dataclass(frozen=True)
class Night:
    """A full backup and its verification, both run by Airflow."""

    backup_id: str
    capture: Run
    verification: Run


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Airflow, its servers and a mailbox; two clusters to back up."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="session")
def argv_watch(stack: Stack) -> Iterator[ArgvWatch]:
    """Looks at the machine's command lines from before the first run until the tests end."""
    watch = ArgvWatch(stack.secrets)
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture(scope="session")
def night(stack: Stack, argv_watch: ArgvWatch) -> Night:
    """What happens at 02:00: a full backup of `streamflix`, then its restore test."""
    capture = stack.rest.finish("streamflix_full_backup")
    assert capture.state == "success", capture.logs()
    (backup,) = stack.site().catalog.backups_of(capture.owner)
    verification = Run(stack.rest, "streamflix_verify_backup", f"verify__{backup.id}__local__1")
    assert verification.wait() == "success", verification.logs()
    return Night(backup.id, capture, verification)

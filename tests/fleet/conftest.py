"""One Airflow with Celery for all tests; who needs a worker starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.airflow_e2e.stack import running_stack
from tests.fleet.stack import FleetStack


@pytest.fixture(scope="package")
def fleet() -> Iterator[FleetStack]:
    """Airflow, a broker and the servers; no worker."""
    with running_stack(FleetStack) as running:
        yield running


@pytest.fixture
def stack(fleet: FleetStack) -> Iterator[FleetStack]:
    """The same, without a worker before and after each test."""
    yield fleet
    for name in list(fleet.workers):
        fleet.stop_worker(name)

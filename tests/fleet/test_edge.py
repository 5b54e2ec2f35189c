"""A worker on the database host that knows nothing but the API server's address; the way there is cut, and mended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pgbackup.domain.model import State
from tests.airflow_e2e.hold import Hold
from tests.airflow_e2e.processes import programs
from tests.airflow_e2e.rest import eventually
from tests.airflow_e2e.stack import CLUSTERS, running_stack
from tests.airflow_e2e.test_runs import committed, directories, held_dump
from tests.fleet.stack import QUEUES, FleetStack
from tests.fleet.test_workers import proved
from tests.support.faulty import FaultyWay

EDGE = "airflow.providers.edge3.executors.EdgeExecutor"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


class EdgeStack(FleetStack):
    """The fleet, whose cluster `library` an Edge worker serves."""

    @property
    def way(self) -> FaultyWay:
        """How the worker reaches the API server."""
        self._ways = getattr(self, "_ways", None) or FaultyWay(self.port)
        return self._ways

    def start_edge(self) -> None:
        """Start the worker, without the metadata database and the broker."""
        environment = {
            "AIRFLOW__EDGE__API_URL": f"{self.way.endpoint}/edge_worker/v1/rpcapi",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.way.endpoint}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
            "AIRFLOW__CELERY__BROKER_URL": "redis://127.0.0.1:1/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": "",
        }
        options = ("--queues", QUEUES["library"], "--edge-hostname", "database-host", "--concurrency", "2")
        self.workers["edge"] = self._start("edge", "worker", *options, **environment)

    def stop(self) -> None:
        super().stop()
        self.way.close()

    def _options(self) -> Mapping[str, Mapping[str, object]]:
        options = dict(super()._options())
        options["core"] = {**options["core"], "executor": f"CeleryExecutor,{EDGE}"}
        options["database"] = {
            **options["database"],
            "external_db_managers": "airflow.providers.edge3.models.db.EdgeDBManager",
        }
        options["edge"] = {
            "api_enabled": True,
            "api_url": f"{self.url}/edge_worker/v1/rpcapi",
            "heartbeat_interval": 5,
            "job_poll_interval": 1,
        }
        return options

    def _protocol(self) -> dict[str, Any]:
        document = super()._protocol()
        document["clusters"]["library"]["executor"] = EDGE
        return document


@pytest.fixture(scope="module")
def stack() -> Iterator[EdgeStack]:
    with running_stack(EdgeStack) as running:
        running.start_edge()
        yield running


def test_its_tasks_alone_run_there(stack: EdgeStack) -> None:
    runs = {name: stack.rest.trigger(f"{name}_wal_watch") for name in CLUSTERS}
    runs["library"].wait()
    assert runs["library"].tasks()["watch"]["hostname"] == "database-host", runs["library"].logs()
    assert runs["streamflix"].tasks()["watch"]["start_date"] is None


def test_a_backup_that_was_cut_off_is_taken_again_when_the_way_is_mended(stack: EdgeStack) -> None:
    before = committed(stack, "library")
    with Hold(stack.protected) as hold:
        run, _ = held_dump(stack, hold)
        stack.way.refusing = True
        eventually(lambda: run.tasks()["backup"]["state"] == "up_for_retry", "a scheduler that misses it")
        eventually(lambda: not programs(stack.home, "pg_dump", "gpg"), "the end of what nobody waits for")
    stack.way.heal()
    assert run.wait() == "success", run.logs()
    good, lost = stack.site().catalog.backups_of(run.owner)
    assert lost.state is State.FAILED
    assert committed(stack, "library") == directories(stack, "library") == {*before, good.id}
    proved(stack, good.id)

"""A night of many clusters on real Celery workers: python -m bench.fleet [clusters] (50) [workers] (2) [slots] (4).

Every cluster's full backup is triggered at the same moment; each takes a dump of its own small database, which the
verification that it triggers proves. Told are how long that takes, what fails, what it needs. Needs redis-server.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
from tests.airflow_e2e.processes import Process, living
from tests.airflow_e2e.rest import FINAL, Rest, Run, eventually
from tests.airflow_e2e.stack import COMPONENTS, running_stack
from tests.fleet.stack import POOL, FleetStack
from tests.support.source import LIBRARY, SAMPLE, Source

_A_SERVER = 10
"""Clusters that share one; they are small."""
_PATIENCE = 7200.0


class Fleet(FleetStack):
    """Clusters `c00`, `c01` and so on, each a database of its own; ten of them to a server."""

    clusters = 50
    slots = 4

    def __init__(self, home: Path, *parts: Any) -> None:
        self.names = [f"c{number:02}" for number in range(self.clusters)]
        self.servers = [Source() for _ in range(0, self.clusters, _A_SERVER)]
        super().__init__(home, *parts)

    def server(self, name: str) -> Source:
        """Where a cluster's database is."""
        return self.servers[self.names.index(name) // _A_SERVER]

    def fill_protected(self) -> None:
        """Make every cluster's database."""
        for server in self.servers:
            server.make_roles()
        for name in self.names:
            self.server(name).execute(f"CREATE DATABASE {name}")
            self.server(name).execute(LIBRARY, name)
            self.server(name).run_script(SAMPLE / "pgbackup.sql", name)

    def start(self) -> None:
        """Start the components; return how long the DAG processor took to know every DAG, in seconds."""
        self.broker.start()
        for name, options in COMPONENTS.items():
            self._components[name] = self._start(name, *options)
        eventually(self._is_healthy, "Airflow's components")
        began = time.monotonic()
        self.rest = self.colleague = Rest(self.url, "admin", self.passwords["admin"], self._log("scheduler"))
        self.rest.post("/pools", {"name": POOL, "slots": self.slots})
        wanted = len(self.names) * len(list(Path("dags").glob("*.py")))
        patiently(lambda: self.rest.get("/dags", limit=1)["total_entries"] >= wanted, 10)
        print(f"{wanted} DAGs known {time.monotonic() - began:.0f} s after the first component was healthy", flush=True)

    def stop(self) -> None:
        """End all of it, the servers, too."""
        super().stop()
        for server in self.servers:
            server.remove()

    def _connections(self) -> dict[str, dict[str, Any]]:
        found = super()._connections()
        for name in self.names:
            server = self.server(name)
            found[name] = {**found["streamflix"], "port": server.port, "password": server.password}
        return found

    def _protocol(self) -> dict[str, Any]:
        document = super()._protocol()
        model = document["clusters"]["library"]
        del model["recovery_connection"]
        document["capture_pool"] = POOL
        document["clusters"] = {
            name: {
                **model,
                "connection": {"airflow_conn_id": name},
                "queue": f"host{number // _A_SERVER % 2}",
                "exclude_databases": ["postgres", *(other for other in self.names if other != name)],
                "full_backup": {"base": False, "due": "4h", "lock_timeout": "10 min"},
            }
            for number, name in enumerate(self.names)
        }
        return document


def patiently(ask: Any, seconds: float) -> None:
    """Ask now and then until the answer is true."""
    deadline = time.monotonic() + _PATIENCE
    while not ask():
        if time.monotonic() > deadline:
            raise SystemExit("this takes too long")
        time.sleep(seconds)


def memory(processes: list[Process]) -> dict[str, float]:
    """Proportional set size in MB, by component; a task's programs count as its worker's."""
    found: dict[str, float] = defaultdict(float)
    for one in processes:
        words = " ".join(one.argv)
        kinds = ("api-server", "api_server", "scheduler", "dag-processor", "triggerer", "celery", "redis-server")
        kind = next((kind for kind in kinds if kind in words), "tasks and their programs")
        try:
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found[kind] += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return found


def night(stack: Fleet) -> None:
    """Trigger every backup, wait for every proof; print what there is to know."""
    began = time.monotonic()
    captures = {name: stack.rest.trigger(f"{name}_full_backup") for name in stack.names}
    proofs: dict[str, Run] = {}
    ended: dict[str, tuple[str, float]] = {}
    peak: dict[str, float] = defaultdict(float)

    def done() -> bool:
        for kind, used in memory(living(stack.home)).items():
            peak[kind] = max(peak[kind], used)
        try:
            for run in [*captures.values(), *proofs.values()]:
                if run.owner not in ended and (state := run.state) in FINAL:
                    ended[run.owner] = (str(state), time.monotonic() - began)
        except httpx.HTTPError as error:
            print(f"the API server: {error!r}", flush=True)
        for name, run in captures.items():
            if run.owner in ended and name not in proofs and ended[run.owner][0] == "success":
                (backup,) = stack.site().catalog.backups_of(run.owner)
                proofs[name] = Run(stack.rest, f"{name}_verify_backup", f"verify__{backup.id}__local__1")
        told = sum(run.owner in ended for run in captures.values()), sum(run.owner in ended for run in proofs.values())
        print(f"{time.monotonic() - began:5.0f} s: {told[0]} captured, {told[1]} proved", flush=True)
        return told[0] == len(captures) and told[1] == len(proofs)

    patiently(done, 15)
    for what, runs in (("captures", captures), ("proofs", proofs)):
        results = [ended[run.owner] for run in runs.values()]
        states = {state: sum(one == state for one, _ in results) for state in sorted(FINAL)}
        times = sorted(seconds for _, seconds in results)
        print(f"{what}: {states}; first {times[0]:.0f} s, half {statistics.median(times):.0f} s, all {times[-1]:.0f} s")
    tries = [task["try_number"] for run in [*captures.values(), *proofs.values()] for task in run.tasks().values()]
    print(f"{len(tries)} tasks, {sum(number > 1 for number in tries)} of them tried again")
    print(f"memory at its peak, MB: {', '.join(f'{kind} {used:.0f}' for kind, used in sorted(peak.items()))}")


def main(clusters: int, workers: int, slots: int) -> None:
    """Start it all, have a night, leave nothing."""
    Fleet.clusters, Fleet.slots = clusters, slots
    with running_stack(Fleet) as stack:
        for number in range(workers):
            stack.start_worker(f"worker{number}", f"host{number % 2}")
        print(f"{clusters} clusters, {workers} workers of 2 slots, {slots} captures at once", flush=True)
        night(stack)
        for name in list(stack.workers):
            stack.stop_worker(name)


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["50", "2", "4"][len(sys.argv) - 1 :])))

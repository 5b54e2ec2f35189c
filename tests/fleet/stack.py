"""The stack with workers: each cluster's tasks go through a broker to a queue of its own."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.airflow_e2e.processes import end, living
from tests.airflow_e2e.rest import eventually
from tests.airflow_e2e.stack import BRANCH, COMPONENTS, LOCAL_SETTINGS, Stack
from tests.support.source import free_port

QUEUES = {"streamflix": "host1", "library": "host2", BRANCH: "host3"}
POOL = "captures"


class Broker:
    """Redis on loopback, with a password; what it was given outlives it."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "broker"
        self.folder.mkdir(mode=0o700)
        self.port = free_port()
        self.password = secrets.token_urlsafe(24)
        self._mark = {"HOME": str(home)}
        self._process: subprocess.Popen[bytes] | None = None
        lines = ("bind 127.0.0.1", f"port {self.port}", f"requirepass {self.password}", f"dir {self.folder}")
        (self.folder / "redis.conf").touch(mode=0o600)
        (self.folder / "redis.conf").write_text("\n".join([*lines, "appendonly yes", 'save ""', ""]))

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "this suite needs a broker: apt-get install redis-server"
        with (self.folder / "log").open("ab") as log:
            argv = [program, str(self.folder / "redis.conf")]
            self._process = subprocess.Popen(argv, env=self._mark, cwd=self.folder, stdout=log, stderr=log)
        eventually(self._answers, "the broker")

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                with connection.makefile("rb") as answers:
                    return answers.readline() + answers.readline() == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


class FleetStack(Stack):
    """Celery, a broker, and workers that the tests start and lose. A run of the watch ends after half a minute."""

    local_settings = f"""{LOCAL_SETTINGS}
def dag_policy(dag):
    if dag.dagrun_timeout is not None:
        dag.dagrun_timeout = timedelta(seconds=30)
"""

    def __init__(self, home: Path, *parts: Any) -> None:
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.broker = Broker(home)
        super().__init__(home, *parts)

    def start(self) -> None:
        """Start the broker, then the rest; no worker."""
        self.broker.start()
        super().start()
        self.rest.post("/pools", {"name": POOL, "slots": 1})

    def stop(self) -> None:
        """End all of it."""
        super().stop()
        self.broker.kill()
        for worker in self.workers.values():
            worker.wait()

    def start_worker(self, name: str, *queues: str) -> None:
        """Start a worker of some queues; return when it works."""
        log = self.logs / f"worker-{name}.log"
        options = ("--concurrency", "2", "--celery-hostname", f"{name}@%h", "--skip-serve-logs")
        self.workers[name] = self._start("celery", "worker", "--queues", ",".join(queues), *options, log=log)
        eventually(lambda: log.read_text(errors="replace").count(" ready.") or self._ended(name), f"worker {name}")

    def lose_worker(self, name: str) -> None:
        """Let a worker and all that it started vanish at once, as with its machine."""
        worker = self.workers.pop(name)
        family = {worker.pid}
        for _ in range(8):  # as deep as a task's programs are
            family |= {process.pid for process in living(self.home) if process.parent in family}
        for pid in family:
            end(pid)
        worker.wait()
        eventually(lambda: not family & {process.pid for process in living(self.home)}, f"the end of worker {name}")

    def stop_worker(self, name: str) -> None:
        """Ask a worker to end when its tasks have."""
        worker = self.workers.pop(name)
        worker.send_signal(signal.SIGTERM)
        worker.wait(120)

    def kill_scheduler(self) -> None:
        """End the scheduler without a word."""
        self._components["scheduler"].kill()
        self._components["scheduler"].wait()

    def start_scheduler(self) -> None:
        """Start another one."""
        self._components["scheduler"] = self._start("scheduler", *COMPONENTS["scheduler"])
        eventually(self._is_healthy, "the scheduler")

    @property
    def secrets(self) -> dict[str, str]:
        return {**super().secrets, "broker": self.broker.password}

    def _ended(self, name: str) -> bool:
        assert self.workers[name].poll() is None, self.output()[f"worker-{name}"]
        return False

    def _options(self) -> Mapping[str, Mapping[str, object]]:
        options = {section: dict(values) for section, values in super()._options().items()}
        options["core"] |= {"executor": "CeleryExecutor", "parallelism": 16}
        options["scheduler"] |= {
            "task_instance_heartbeat_timeout": 40,
            "task_instance_heartbeat_timeout_detection_interval": 2,
            "orphaned_tasks_check_interval": 5,
            "scheduler_health_check_threshold": 20,
        }
        options["celery"] = {
            "broker_url": self.broker.url,
            "result_backend": f"db+{options['database']['sql_alchemy_conn']}",
            "worker_enable_remote_control": True,
        }
        return options

    def _protocol(self) -> dict[str, Any]:
        document = super()._protocol()
        document["repositories"] = {"eu": document["repositories"]["eu"]}
        document["capture_pool"] = POOL
        for name, queue in QUEUES.items():
            document["clusters"][name]["queue"] = queue
        return document

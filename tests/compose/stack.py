"""docker-compose.yaml, up: how the tests talk to its containers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.airflow_e2e.rest import Rest, eventually
from tests.compose.engine import Engine
from tests.support.source import ROOT, free_port

COMPOSE = Path(sysconfig.get_path("purelib")) / "compose" / "docker-compose"  # the one in bin/ drops the exit status
SERVICES = {
    *("api-server", "scheduler", "dag-processor", "triggerer", "worker", "redis", "metadata"),
    *("streamflix", "wal-receiver", "region-eu", "region-us", "region-ap", "mail"),
}

MAILS = """
import mailbox
for mail in mailbox.Maildir("/mailbox/mail", create=False):
    for part in mail.walk():
        print((part.get_payload(decode=True) or b"").decode())
"""


class SchedulerLog:
    """What the scheduler's container printed, for Rest."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def read_text(self, errors: str) -> str:
        """All of it, as Path.read_text."""
        assert errors == "replace", "as compose() reads"
        return self._stack.compose("logs", "--no-log-prefix", "scheduler").stdout


class Stack:
    """The containers of one project, with secrets of their own."""

    def __init__(self, engine: Engine, secrets: Path, images: dict[str, str]) -> None:
        self.engine = engine
        self.secrets = secrets
        self._environment = engine.environment | {
            **images,
            "COMPOSE_PROJECT_NAME": f"streamflix-{os.getpid()}",
            "COMPOSE_PROFILES": "local",
            "SECRETS": str(secrets),
            "AIRFLOW_PORT": str(free_port()),
            "HEARTBEAT_TIMEOUT": "30",
        }
        self._rest: Rest | None = None

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run docker-compose; fails with what it said, unless told not to."""
        command = [str(COMPOSE), "--progress", "plain", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False, errors="replace"
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def up(self, *options: str) -> None:
        """Start what does not run, and wait until everything is healthy; log in again."""
        done = self.compose("up", "--detach", "--wait", "--no-build", *options, check=False)
        if done.returncode != 0:
            states = self.compose("ps", "--all").stdout
            logs = self.compose("logs", "--tail", "40").stdout
            raise AssertionError(f"{done.stderr}\n{states}\n{logs}")
        self.login()

    def login(self) -> None:
        """A fresh client of the REST API."""
        self.close()
        password = json.loads((self.secrets / "users.json").read_text())["admin"]
        url = f"http://127.0.0.1:{self._environment['AIRFLOW_PORT']}"
        self._rest = Rest(url, "admin", password, SchedulerLog(self))  # type: ignore[arg-type]

    def close(self) -> None:
        """End the client of the REST API."""
        if self._rest is not None:
            self._rest.close()

    @property
    def rest(self) -> Rest:
        """The REST API, since the last up()."""
        assert self._rest is not None, "up() comes first"
        return self._rest

    def run_in(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's container; return what it printed."""
        return self.compose("exec", "--no-TTY", service, *command, check=check).stdout

    def sql(self, statement: str, service: str = "streamflix", database: str = "streamflix") -> str:
        """Ask a server, as its superuser."""
        ask = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres")
        return self.run_in(service, *ask, f"--dbname={database}", f"--command={statement}").strip()

    def backups(self) -> dict[str, dict[str, Any]]:
        """What the command line lists, by id."""
        found: list[dict[str, Any]] = json.loads(self.run_in("worker", "pgbackup", "list", "--json"))
        return {str(one["id"]): one for one in found}

    def mails(self) -> str:
        """The texts of all mails, one after the other."""
        return self.run_in("mail", "python3", "-c", MAILS)

    def containers(self, *services: str) -> dict[str, dict[str, Any]]:
        """Everything the engine knows of the containers, by their host names."""
        ids = self.compose("ps", "--all", "--quiet", *services).stdout.split()
        return {str(one["Config"]["Hostname"]): one for one in json.loads(self.engine.docker("inspect", *ids))}

    @contextlib.contextmanager
    def held(self, table: str) -> Iterator[None]:
        """Make whoever wants to read a table wait."""
        command = [str(COMPOSE), "exec", "--no-TTY", "streamflix", "psql", "-X", "-q", "-U", "postgres", "streamflix"]
        holder = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, text=True)
        assert holder.stdin is not None
        try:
            holder.stdin.write(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;\n")
            holder.stdin.flush()
            mode = "l.mode = 'AccessExclusiveLock' AND l.granted"
            eventually(lambda: self.locks(table, mode), f"the lock on {table}")
            yield
        finally:
            holder.stdin.close()
            holder.wait()

    def locks(self, table: str, which: str) -> int:
        """Count the locks on a table."""
        return int(self.sql(f"SELECT count(*) FROM pg_locks AS l WHERE relation = '{table}'::regclass AND {which}"))

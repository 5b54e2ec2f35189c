"""A verb in a process of its own that is killed at a given moment.

Every step that matters passes a Doom, which writes its name to a trace and, at the chosen one, sends SIGKILL to its own
process: no handler runs, no block ends, as when the machine's memory ran out. One nursery process has imported
everything and forks a child for each call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from pgbackup.adopt import adopt
from pgbackup.capture import capture_full, capture_incremental, capture_night
from pgbackup.catalog import PostgresCatalog
from pgbackup.copy import copy_missing, copy_wal
from pgbackup.domain.drill import Scenario
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Command, ConnectionParameters, Finding, Kind, Verdict
from pgbackup.domain.ports import Sink, Site
from pgbackup.domain.target import parse_target
from pgbackup.drill import drill
from pgbackup.postgres import beside, replace, replication, standstill, swap
from pgbackup.recover import (
    Way,
    cut_over,
    plan_cutover,
    plan_database,
    plan_switch,
    plan_table,
    recover_cluster,
    recover_database,
    recover_table,
    settle,
    switch_over,
    switching,
    verify_latest,
)
from pgbackup.store import LocalStore
from pgbackup.stream import GpgKeyring, Processes
from pgbackup.stream.process import Child
from pgbackup.verify import verify
from tests.support.keys import KeyPair
from tests.support.site import make_site

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = re.compile(r"gpg|gpgconf|initdb|postgres|pg_\w+|tar")


@dataclass(frozen=True)
class Address:
    """A server as another process reaches it."""

    bin: Path
    folder: Path
    port: int

    def parameters(self) -> ConnectionParameters:
        keywords = {"host": str(self.folder), "port": str(self.port), "user": "backup", "dbname": "postgres"}
        return ConnectionParameters(keywords)


@dataclass(frozen=True)
class Call:
    """What to do, and where to die; all of it survives JSON."""

    verb: str
    folder: str
    bin: str
    socket: str
    port: int
    catalog_dsn: str
    key: tuple[str, str, str] | None
    cluster: dict[str, Any]
    backup_id: str = ""
    owner: str = "test"
    into: str = ""
    lsn: str = ""

    def living(self) -> list[str]:
        """Programs that the killed process left behind: they all inherited its HOME."""
        mark = f"HOME={Path(self.folder, 'home')}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


class Nursery:
    """The process that forks the doomed ones."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.doomed"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, call: Call, at: str | None) -> tuple[int, list[str]]:
        """Make a call in a new process that dies at a moment; return its status and the moments that it passed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        trace = Path(call.folder, f"trace-{time.monotonic_ns()}")
        self._process.stdin.write(json.dumps([dataclasses.asdict(call), str(trace), at]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), trace.read_text().splitlines()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def eventually_nobody(call: Call) -> list[str]:
    """Wait, up to a limit, until nothing lives any more; return what does."""
    deadline = time.monotonic() + 30
    while (found := call.living()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


class Doom:
    def __init__(self, trace: Path, at: str) -> None:
        self._trace = trace
        self._at = at
        self._seen: Counter[str] = Counter()

    def __call__(self, moment: str) -> None:
        self._seen[moment] += 1
        label = moment if self._seen[moment] == 1 else f"{moment} #{self._seen[moment]}"
        with self._trace.open("a") as file:
            file.write(label + "\n")
        if label == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


class DoomedStore(LocalStore):
    def __init__(self, root: Path, doom: Doom, *, name: str = "local") -> None:
        super().__init__(root, name=name)
        self._doom = doom

    @contextlib.contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        name = re.sub(r"-[0-9a-f]{16}\.json$", "", key.rsplit("/", 1)[-1])
        with super().create(key) as sink:
            self._doom(f"open {name}")
            yield sink
            self._doom(f"written {name}")
        self._doom(f"stored {name}")

    def delete(self, key: str) -> None:
        self._doom(f"delete {key.rsplit('/', 1)[-1]}")
        super().delete(key)

    def clean(self, prefix: str) -> None:
        self._doom("clean")
        super().clean(prefix)


class DoomedCatalog(PostgresCatalog):
    doom: Doom

    def begin(self, backup_id: str, *, cluster: str, kind: Kind, owner: str, now: datetime) -> None:
        self.doom("before begin")
        super().begin(backup_id, cluster=cluster, kind=kind, owner=owner, now=now)
        self.doom("after begin")

    def captured(self, manifest: Manifest, *, repository: str, now: datetime) -> None:
        self.doom("before captured")
        super().captured(manifest, repository=repository, now=now)
        self.doom("after captured")

    def copied(self, backup_id: str, *, repository: str, now: datetime) -> None:
        self.doom("before copied")
        super().copied(backup_id, repository=repository, now=now)
        self.doom("after copied")

    def wal_copied(
        self, cluster: str, repository: str, *, whole_at: datetime | None, missing: int, error: str, now: datetime
    ) -> None:
        self.doom("before wal_copied")
        super().wal_copied(cluster, repository, whole_at=whole_at, missing=missing, error=error, now=now)
        self.doom("after wal_copied")

    def begin_verification(self, backup_id: str, *, repository: str, owner: str, now: datetime) -> int:
        number = super().begin_verification(backup_id, repository=repository, owner=owner, now=now)
        self.doom("after begin_verification")
        return number

    def found(self, backup_id: str, *, repository: str, attempt: int, step: str, findings: Sequence[Finding]) -> None:
        self.doom(f"before found {step}")
        super().found(backup_id, repository=repository, attempt=attempt, step=step, findings=findings)
        self.doom(f"after found {step}")

    def conclude(
        self,
        backup_id: str,
        *,
        repository: str,
        attempt: int,
        verdict: Verdict | None,
        reason: str,
        now: datetime,
    ) -> None:
        self.doom("before conclude")
        super().conclude(backup_id, repository=repository, attempt=attempt, verdict=verdict, reason=reason, now=now)
        self.doom("after conclude")


class DoomedProcesses(Processes):
    doom: Doom

    def _start(self, command: Command, *, stdin: Any, stdout: Any) -> Child:
        child = super()._start(command, stdin=stdin, stdout=stdout)
        names = [word.rsplit("/", 1)[-1] for word in command.argv]
        self.doom(f"started {next((name for name in names if _PROGRAM.fullmatch(name)), names[0])}")
        return child


def _doom_statements(doom: Doom) -> None:
    """Pass a moment before and after each step of a recovery that only sends statements."""
    steps = {
        beside: ("create", "give_properties", "publish"),
        swap: ("allow_connections", "end_sessions", "swap"),
        replace: ("stage", "set_aside", "put"),
        standstill: ("forbid_writes", "end_clients", "allow_writes"),
        switching: ("set_aside", "put_in_place", "forget"),
        settle: ("let_write", "take_configuration"),
        replication: ("create_slot",),
    }
    for module, names in steps.items():
        for name in names:
            setattr(module, name, _doomed(doom, name, getattr(module, name)))


def _doomed(doom: Doom, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
    def step(*arguments: Any, **options: Any) -> Any:
        doom(f"before {name}")
        result = do(*arguments, **options)
        doom(f"after {name}")
        return result

    return step


def doomed_site(call: Call, doom: Doom) -> Site:
    key = KeyPair(*map(Path, call.key)) if call.key else None
    address = Address(Path(call.bin), Path(call.socket), call.port)
    site = make_site(Path(call.folder), address, call.catalog_dsn, key, owner=call.owner, **call.cluster)
    runner = DoomedProcesses()
    runner.doom = doom
    catalog = DoomedCatalog(lambda: psycopg.connect(call.catalog_dsn, autocommit=True))
    catalog.doom = doom
    return dataclasses.replace(
        site,
        runner=runner,
        catalog=catalog,
        keyring=GpgKeyring(site.settings.encryption, runner) if key else site.keyring,
        repositories={"local": DoomedStore(site.settings.paths.backups, doom)},
    )


def perish(call: Call, trace: Path, at: str | None) -> None:
    """Make the call in this process."""
    home = Path(call.folder, "home")
    home.mkdir(exist_ok=True)
    os.environ["HOME"] = str(home)
    doom = Doom(trace, at or "")
    site = doomed_site(call, doom)
    _doom_statements(doom)
    VERBS[call.verb](site, call)


def _with_cellar(site: Site, call: Call) -> Site:
    cellar = DoomedStore(Path(call.into), site.catalog.doom, name="cellar")
    return dataclasses.replace(site, repositories={**site.repositories, "cellar": cellar})


def _recover_table_at(site: Site, call: Call) -> None:
    target = parse_target(lsn=call.lsn)
    recover_table(site, plan_table(site, "streamflix", "shop", "public.customer", target=target, way=Way.IN_PLACE))


VERBS: dict[str, Callable[[Site, Call], object]] = {
    "capture": lambda site, _call: capture_full(site, "streamflix"),
    "night": lambda site, _call: capture_night(site, "streamflix"),
    "incremental": lambda site, _call: capture_incremental(site, "streamflix"),
    "verify": lambda site, call: verify(site, call.backup_id, "local"),
    "recover": lambda site, call: recover_cluster(site, "streamflix", parse_target(lsn=call.lsn), into=Path(call.into)),
    "latest": lambda site, _call: verify_latest(site, "streamflix"),
    "database": lambda site, call: recover_database(site, plan_database(site, "streamflix", "library", call.backup_id)),
    "table": lambda site, call: recover_table(
        site, plan_table(site, "streamflix", "library", "public.book", call.backup_id, way=Way.IN_PLACE)
    ),
    "table at": _recover_table_at,
    "cutover": lambda site, call: cut_over(site, plan_cutover(site, "streamflix", "library", call.into)),
    "drill": lambda site, call: drill(site, "streamflix", Scenario(call.into)),
    "adopt": lambda site, call: adopt(site, "streamflix", Path(call.into)),
    "copy": lambda site, call: copy_missing(_with_cellar(site, call), "streamflix", "cellar"),
    "copy wal": lambda site, call: copy_wal(_with_cellar(site, call), "streamflix", "cellar"),
    "switch": lambda site, call: switch_over(site, plan_switch(site, "streamflix", Path(call.into))),
}


def main() -> None:
    for line in sys.stdin:
        fields, trace, at = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                perish(Call(**fields), Path(trace), at)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

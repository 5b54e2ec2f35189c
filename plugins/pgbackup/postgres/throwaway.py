"""A throw-away server: isolated, fast, private, and gone when the block ends or this process dies.

Isolated: a Unix socket in a private folder only, its own network namespace where the kernel allows one (so that no
foreign table, dblink or subscription reaches production), no archiving, no preloaded libraries, no autovacuum.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, UnavailableError, UnfitError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import UNLESS_ORPHANED, Command, ConnectionParameters
from pgbackup.domain.ports import Process, Runner
from pgbackup.postgres.connection import connect
from pgbackup.postgres.programs import Programs
from pgbackup.scratch import private_folder

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0
_NOBODY = 65534
_PORT = "5432"

SETTINGS: dict[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "jit": "off",
    "max_locks_per_transaction": "1024",
    "max_prepared_transactions": "0",
    "max_logical_replication_workers": "0",
    "lc_messages": "C",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "dynamic_library_path": "$libdir",
    "allow_in_place_tablespaces": "on",
}


_REDO = re.compile(
    r"redo starts at (?P<start>[0-9A-F]+/[0-9A-F]+)$.*"
    r"redo done at (?P<end>[0-9A-F]+/[0-9A-F]+) system usage: .* elapsed: (?P<seconds>[\d.]+) s",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Redo:
    """How much WAL a server replayed, in how many seconds."""

    bytes: int
    seconds: float


def parse_redo(log: str) -> Redo | None:
    """Find in a server's log how fast it replayed; None where it did not, or said so too long ago."""
    match = _REDO.search(log)
    if match is None:
        return None
    return Redo(Lsn.parse(match["end"]).position - Lsn.parse(match["start"]).position, float(match["seconds"]))


@dataclass(frozen=True)
class ThrowAwayServer:
    """A data directory that servers are started on, one at a time."""

    folder: Path
    programs: Programs
    runner: Runner
    superuser: str
    major: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def create(self) -> None:
        """Make an empty server; whatever a killed try left is removed first."""
        self.discard()
        self.folder.mkdir(mode=0o700, parents=True)
        if _isolation() == "nobody":
            os.chown(self.folder, _NOBODY, _NOBODY)
        options = [
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            f"--username={self.superuser}",
        ]
        if self.major >= 18:
            options.append("--no-data-checksums")  # nothing here outlives the hour
        self.runner.run(self._as_server("initdb", "-D", str(self.data), *options))
        self._configure({})

    def adopt(self, settings: Mapping[str, str]) -> None:
        """Prepare an unpacked physical backup: nothing of the source's own configuration stays in force.

        A tablespace_map would lead to the source's own folders at the first start.
        """
        (self.data / "tablespace_map").unlink(missing_ok=True)
        (self.data / "recovery.signal").touch()
        self.data.chmod(0o700)
        self._configure({"shared_buffers": _replay_buffers(), **settings})
        self.own()

    def own(self) -> None:
        """Give every file to the user that servers run as, where that is not ours."""
        if _isolation() == "nobody":
            for folder, folders, names in os.walk(self.folder):
                for name in ("", *folders, *names):
                    os.chown(Path(folder, name), _NOBODY, _NOBODY)

    def _configure(self, settings: Mapping[str, str]) -> None:
        values = {**SETTINGS, **self.settings, **settings}
        files = {
            "postgresql.conf": "".join(f"{name} = '{value}'\n" for name, value in values.items()),
            "postgresql.auto.conf": "",
            "pg_hba.conf": "local all all trust\n",
            "pg_ident.conf": "",
        }
        for name, text in files.items():
            (self.data / name).write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def running(self, *, timeout: float = _START_TIMEOUT) -> Iterator[ConnectionParameters]:
        """Start the server, yield how to reach it as superuser, stop it (a fast shutdown: what was done stays).

        ``timeout`` is in seconds.
        """
        with self._started(timeout) as (_, parameters):
            yield parameters

    @contextlib.contextmanager
    def recovering(self, *, timeout: float) -> Iterator[tuple[ConnectionParameters, Redo | None]]:
        """Run a server that recovers first and answers only then; yield also how fast it replayed, where it says so."""
        with self._started(timeout) as (process, parameters):
            yield parameters, parse_redo(process.stderr())

    @contextlib.contextmanager
    def _started(self, timeout: float) -> Iterator[tuple[Process, ConnectionParameters]]:
        with _socket_folder() as socket:
            command = self._as_server("postgres", "-D", str(self.data), "-k", socket, "-p", _PORT)
            process = self.runner.spawn(command)
            parameters = ConnectionParameters(
                {"host": socket, "port": _PORT, "user": self.superuser, "dbname": "template1"}
            )
            try:
                deadline = time.monotonic() + timeout
                while not _answers(parameters):
                    if process.poll() is not None:
                        raise UnavailableError("the throw-away server does not start", detail=process.stderr()[-2000:])
                    if time.monotonic() > deadline:
                        raise UnavailableError("the throw-away server does not answer", detail=process.stderr()[-2000:])
                    time.sleep(0.05)
                yield process, parameters
            finally:
                process.stop(signal.SIGINT, _STOP_TIMEOUT)

    def discard(self) -> None:
        """Remove everything, restored data first."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _as_server(self, program: str, *arguments: str) -> Command:
        """Call a program that refuses to be root; a new user namespace drops the death signal, so it is set again."""
        command = self.programs.command(program, *arguments)
        return Command((*_PREFIX[_isolation()], *UNLESS_ORPHANED, str(os.getpid()), *command.argv))


def living_on(programs: Programs, program: str, *arguments: str) -> Command:
    """Call a program that refuses to be root; a server that it starts outlives us, on the machine's own network."""
    prefix = {"namespace": _MAP, "user": _MAP, "nobody": _AS_NOBODY, "direct": ()}[_isolation()]
    return Command((*prefix, *programs.command(program, *arguments).argv))


def owned_by(user: int, group: int, command: Command) -> Command:
    """Call a program as the user that a data directory belongs to; only root can."""
    return Command(("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--", *command.argv))


def _replay_buffers() -> str:
    """A quarter of the memory, up to 2 GB: with little, the same pages are read and written again and again."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{min(memory // 4, 2 << 30) >> 20}MB"


def copy_server(runner: Runner, server: ThrowAwayServer, folder: Path) -> None:
    """Copy a stopped server into another folder, whole or not at all; sharing blocks where the filesystem can."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    runner.run(Command(("cp", "--archive", "--reflink=auto", "--", str(server.data), str(unfinished))))
    unfinished.rename(folder)


_MAP = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_DIE = ("setpriv", "--pdeathsig", "INT", "--")
_AS_NOBODY = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--")
_PREFIX: dict[str, tuple[str, ...]] = {
    "namespace": (*_MAP, "--net", *_DIE),
    "user": (*_MAP, *_DIE),
    "nobody": ("setpriv", "--pdeathsig", "INT", *_AS_NOBODY[1:]),
    "direct": (),
}


@functools.cache
def _isolation() -> str:
    """Find the strongest isolation that this machine allows; root needs one, because PostgreSQL refuses to be root."""
    if os.path.exists("/proc/self/ns/user") and shutil.which("unshare") and shutil.which("setpriv"):  # noqa: PTH110
        for name in ("namespace", "user"):
            if os.spawnvp(os.P_WAIT, "sh", ["sh", "-c", '"$@" 2>/dev/null', "sh", *_PREFIX[name], "true"]) == 0:  # noqa: S606
                return name
    if os.geteuid() != 0:
        return "direct"
    if shutil.which("setpriv"):
        return "nobody"
    raise UnfitError(
        "PostgreSQL refuses to run as root, and there is no way to run it as somebody else",
        hint="install util-linux (unshare, setpriv), or run as an ordinary user",
    )


@contextlib.contextmanager
def _socket_folder() -> Iterator[str]:
    """Make a private folder for the socket."""
    with private_folder() as folder:
        if _isolation() == "nobody":
            os.chown(folder, _NOBODY, _NOBODY)
        yield str(folder)


def _answers(parameters: ConnectionParameters) -> bool:
    try:
        with connect(parameters, pinned=False):
            return True
    except (UnavailableError, ProgramFailed, UnfitError):
        return False

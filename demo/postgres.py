"""A PostgreSQL server of the demo: its data directory, its settings, and the command that runs it."""

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psycopg

from demo.layout import LOOPBACK, write_private

NOBODY = 65534
USER_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
COMMON_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
}


class PostgresError(Exception):
    """A PostgreSQL program failed; the message is what it said."""


@functools.cache
def has_user_namespaces() -> bool:
    """Whether the kernel lets us make a user namespace (Docker's default profile does not)."""
    return subprocess.run([*USER_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def unprivileged(argv: list[str], *, dies_with_parent: bool = False) -> list[str]:
    """``argv`` for a program that refuses to run as root; optionally it gets SIGINT when its parent dies.

    As root: inside a user namespace where we are uid 1000, the files staying root's; where that is forbidden,
    as nobody. An ordinary user runs it as it is. setpriv comes last, since entering a namespace forgets the
    parent-death signal.
    """
    death = ["--pdeathsig", "INT"] if dies_with_parent else []
    if os.geteuid() != 0:
        return ["setpriv", *death, *argv] if death else argv
    if has_user_namespaces():
        return [*USER_NAMESPACE, *(["setpriv", *death] if death else []), *argv]
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *death, *argv]


def own(*paths: Path) -> None:
    """Give ``paths`` to the user that `unprivileged` runs as, where that is another one."""
    if os.geteuid() == 0 and not has_user_namespaces():
        for path in paths:
            os.chown(path, NOBODY, NOBODY)


@dataclass(frozen=True)
class Server:
    """A server on loopback TCP and a socket; every connection asks for a password."""

    name: str
    programs: Path
    data: Path
    sockets: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    stop_signal: ClassVar = signal.SIGINT
    """A fast shutdown: sessions are ended, the data directory is clean."""

    def create(self, password: str) -> None:
        """Make the data directory, whole or not at all; ``password`` becomes the superuser's."""
        new = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        passfile = new.with_name(f"{self.name}.password")
        write_private(passfile, password)
        own(new, passfile)
        initdb = [
            str(self.programs / "bin" / "initdb"),
            "-D",
            str(new),
            "-U",
            "postgres",
            "--pwfile",
            str(passfile),
        ]
        initdb += ["--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C"]
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = subprocess.run(unprivileged(initdb), capture_output=True, text=True, cwd="/", check=False)
        passfile.unlink()
        if done.returncode != 0:
            raise PostgresError(f"initdb of the server {self.name} failed: {done.stderr.strip()}")
        with (new / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude 'demo.conf'\n")
        new.rename(self.data)

    def remove(self) -> None:
        """Delete the data directory; the server must not run."""
        shutil.rmtree(self.data)

    def configure(self) -> None:
        """Write what may differ from one start to the next: ports, paths, settings."""
        settings = {
            **COMMON_SETTINGS,
            "port": str(self.port),
            "unix_socket_directories": str(self.sockets),
            **self.settings,
        }
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        path = self.data / "demo.conf"
        write_private(path, "".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
        own(path, self.sockets)

    def command(self) -> list[str]:
        """The server in the foreground; it stops when its parent dies."""
        return unprivileged([str(self.programs / "bin" / "postgres"), "-D", str(self.data)], dies_with_parent=True)

    def is_ready(self, pid: int) -> bool:
        """Whether the server with process id ``pid`` accepts connections (what pg_ctl looks at)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def connect(self, password: str, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection, in autocommit."""
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user="postgres",
            password=password,
            dbname=database,
            autocommit=True,
        )


def encrypted(connection: psycopg.Connection, role: str, password: str) -> str:
    """The SCRAM verifier of ``password``, so that the server and its log never see the password."""
    return connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()

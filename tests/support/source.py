"""A PostgreSQL server to protect: real, on a private socket and on loopback, gone with the test run."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from pgbackup.domain.model import ConnectionParameters
from pgbackup.postgres.throwaway import _PREFIX, _isolation

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "include" / "sql" / "streamflix"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "wal_level": "replica",
    "max_connections": "100",
    "lc_messages": "C",
    "log_min_messages": "fatal",
    "autovacuum": "off",
    "max_prepared_transactions": "4",
    "max_locks_per_transaction": "256",
}


def programs(major: int = 18) -> Path:
    """The folder of a major version's programs, unpacked by ``make postgres``."""
    return ROOT / ".cache" / "postgresql" / str(major) / "bin"


class Source:
    """The protected server. Trust on the socket for its superuser; passwords on loopback."""

    def __init__(self, major: int = 18) -> None:
        self.major = major
        self.bin = programs(major)
        self.folder = Path(tempfile.mkdtemp(prefix="pgsrc", dir="/tmp"))
        self.data = self.folder / "data"
        self.port = free_port()
        self.password = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[bytes] | None = None
        if _isolation() == "nobody":
            os.chown(self.folder, 65534, 65534)
        self._run(
            "initdb",
            "-D",
            str(self.data),
            "--auth=trust",
            "--no-sync",
            "-U",
            "postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--data-checksums",
        )
        lines = [f"{name} = '{value}'" for name, value in {**SETTINGS, "port": str(self.port)}.items()]
        (self.data / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        (self.data / "pg_hba.conf").write_text(
            "local all all trust\nlocal replication all trust\n"
            "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
        )
        self.start()

    def start(self) -> None:
        argv = self._argv("postgres", "-D", str(self.data), "-k", str(self.folder))
        self._process = subprocess.Popen(argv, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, "the source server does not start"
                assert time.monotonic() < deadline, "the source server does not answer"
                time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, dbname: str = "streamflix") -> psycopg.Connection[tuple]:
        return psycopg.connect(host=str(self.folder), port=self.port, user="postgres", dbname=dbname, autocommit=True)

    def execute(self, statement: str, dbname: str = "postgres") -> None:
        with self.connect(dbname) as connection:
            connection.execute(statement)

    def load_sample(self, dbname: str = "streamflix", scale: float = 0.01) -> None:
        """Create a database and load the sample into it; role ``backup`` gets this server's password."""
        self.execute(f'CREATE DATABASE "{dbname}"')
        self._psql(SAMPLE / "load.sql", dbname, f"scale={scale}")

    def make_roles(self) -> None:
        """Make the sample's roles without its database; role ``backup`` gets this server's password."""
        self._psql(SAMPLE / "roles.sql", "postgres")

    def parameters(
        self, user: str = "backup", *, tcp: bool = False, password: str | None = None
    ) -> ConnectionParameters:
        host = "127.0.0.1" if tcp else str(self.folder)
        keywords = {"host": host, "port": str(self.port), "user": user, "dbname": "postgres"}
        return ConnectionParameters(keywords, (password or self.password) if tcp else None)

    def _psql(self, script: Path, dbname: str, *variables: str) -> None:
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", dbname]
        values = [word for variable in variables for word in ("-v", variable)]
        subprocess.run(
            [str(self.bin / "psql"), "-X", "-q", *where, *values, "-f", str(script)],
            check=True,
            env={**os.environ, "STREAMFLIX_BACKUP_PASSWORD": self.password},
            stdout=subprocess.DEVNULL,
        )

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(self._argv(program, *arguments), cwd="/", check=True, stdout=subprocess.DEVNULL)

    def _argv(self, program: str, *arguments: str) -> list[str]:
        return (
            [*_PREFIX[_isolation()], str(self.bin / program), *arguments]
            if _isolation() != "namespace"
            else [*_PREFIX["user"], str(self.bin / program), *arguments]
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Ours on a prepared machine: its two configurations, its receiver, its archive, its recovery."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from bench.load import Load
from bench.stage import Stage, pgbackup
from pgbackup.domain.wal import is_segment

PORT = "5434"


class Ours:
    """``plain`` compares no contents, as nobody else does; ``proved`` fingerprints every table."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        # Rounds take more incrementals than a chain would get.
        self.plain = stage.configure(encrypted=True, fingerprints={"enabled": False})
        self.proved = stage.configure(encrypted=True, fingerprints={"enabled": True})
        self._rate = stage.configure(encrypted=True, backups="rate", wal={"slot": "rate"})
        pgbackup(self.plain, "wal", "create-slot")

    @contextmanager
    def receiving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the receiver."""
        with receiving(self.plain, self._stage.folder / "receiver.log") as process:
            yield process

    def wait_for(self, segment: str) -> None:
        """Wait until a segment is sealed."""
        while not any((self._stage.folder / "backups" / "wal").rglob(f"{segment}-*.json")):
            time.sleep(0.1)

    def recover(self, point: str, state: str) -> float:
        """Recover to a named point, up to a server that answers; return the seconds."""
        folder = self._stage.folder / "recovered"
        seconds, _, document = pgbackup(
            self.plain, "recover", "cluster", "--name", point, "--into", str(folder), "--port", PORT
        )
        print("      " + ", ".join(f"{step['name']} {step['seconds']}" for step in document["steps"]), flush=True)
        keywords = {**self._stage.superuser.keywords, "host": str(folder), "port": PORT}
        with psycopg.connect(**keywords) as connection:
            found = Load.state_of(connection)
        end_server(folder)
        if found != state:
            raise SystemExit(f"recovered something else than there was: {found}, {state}")
        return seconds

    def seal(self, segments: list[Path]) -> float:
        """Give a running receiver finished segments, as a network that was down would; return the seconds."""
        backups = self._stage.folder / "rate"
        shutil.rmtree(backups, ignore_errors=True)
        with psycopg.connect(**self._stage.superuser.keywords, autocommit=True) as connection:
            connection.execute("SELECT pg_create_physical_replication_slot('rate', true)")
            rows = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchall()
        folder = backups / ".received" / "bench" / rows[0][0]
        aside = backups / "aside"
        aside.mkdir(parents=True)
        for segment in segments:
            shutil.copy(segment, aside)
        with receiving(self._rate, self._stage.folder / "rate.log"):
            while not folder.is_dir() or not any(folder.glob("*.partial")):
                time.sleep(0.05)
            start = time.monotonic()
            for segment in segments:
                (aside / segment.name).rename(folder / segment.name)
            while len(list((backups / "wal").rglob("*.json"))) < len(segments):
                time.sleep(0.05)
            seconds = time.monotonic() - start
        with psycopg.connect(**self._stage.superuser.keywords, autocommit=True) as connection:
            connection.execute("SELECT pg_drop_replication_slot('rate')")
        return seconds


@contextmanager
def receiving(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `pgbackup wal receive` as a service manager does."""
    env = {**os.environ, "PGBACKUP_CONFIG": str(config)}
    with log.open("ab") as said:
        argv = [sys.executable, "-m", "pgbackup.cli", "wal", "receive"]
        process = subprocess.Popen(argv, env=env, stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def segments_of(folder: Path, last: str, count: int) -> list[Path]:
    """Return the newest finished segments that the server keeps, up to ``last``."""
    return sorted(path for path in folder.iterdir() if is_segment(path.name) and path.name <= last)[-count:]


def end_server(folder: Path) -> None:
    """Stop a server at once and remove it."""
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    shutil.rmtree(folder)

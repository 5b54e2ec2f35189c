"""The WAL receiver as a service manager runs it: a process of its own. And what proves that it missed nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import yaml

from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Segment
from pgbackup.postgres import replication
from pgbackup.restore.archive import Listing, fetch_wal, list_archive
from pgbackup.restore.received import ReceiverStatus, receiver_status
from tests.support.keys import KeyPair
from tests.support.source import SAMPLE, Source

MEGABYTE = 1 << 20


def small_segments(major: int = 18) -> Source:
    """A server with segments of 1 MB, and a database ``app`` with the heartbeat's table."""
    source = Source(major)
    source.stop()
    source._run("pg_resetwal", "--wal-segsize=1", str(source.data))
    source.start()
    source.make_roles()
    source.execute("CREATE DATABASE app")
    source.run_script(SAMPLE / "pgbackup.sql", "app")
    source.execute("CREATE TABLE row (id bigint GENERATED ALWAYS AS IDENTITY, content bytea)", "app")
    return source


def fill(source: Source, segments: int) -> None:
    """Write so many segments of WAL that does not compress, in committed transactions; the last one is closed."""
    with source.connect("app") as connection:
        for _ in range(segments * 8):
            connection.execute("INSERT INTO row (content) VALUES (%s)", (os.urandom(MEGABYTE // 8),))
        connection.execute("SELECT pg_switch_wal()")


@contextlib.contextmanager
def load(source: Source) -> Iterator[None]:
    """Write all the time while the block runs, also across restarts of the server."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with contextlib.suppress(psycopg.Error), source.connect("app") as connection:
                while not over.is_set():
                    connection.execute("INSERT INTO row (content) VALUES (%s)", (os.urandom(20000),))
                    time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def second_receiver(source: Source, folder: Path) -> Iterator[Path]:
    """A pg_receivewal with a slot of its own: what the server really sent."""
    folder.mkdir()
    conninfo = f"host={source.folder} port={source.port} user=postgres dbname=postgres"
    with source.connect("postgres") as connection:
        connection.execute("SELECT pg_create_physical_replication_slot('second', true)")
        argv = [str(source.bin / "pg_receivewal"), "-D", str(folder), "-S", "second", "-s", "1", "-d", conninfo]
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        with source.connect("postgres") as connection:
            eventually(lambda: not replication.slot(connection, "second").active)  # type: ignore[union-attr]
            connection.execute("SELECT pg_drop_replication_slot('second')")


class Receiver:
    """`pgbackup wal receive` with a configuration that means the same folder and server as a test's site."""

    def __init__(self, folder: Path, source: Source, key: KeyPair | None, **wal: Any) -> None:
        self.settings_file = folder / "protocol.yaml"
        services = folder / "pg_service.conf"
        services.write_text(f"[streamflix]\nhost={source.folder}\nport={source.port}\nuser=backup\ndbname=postgres\n")
        paths = {"backups": "backups", "logs": "logs", "service_file": "pg_service.conf"}
        document = {
            "version": 1,
            "paths": {**{name: str(folder / path) for name, path in paths.items()}, "postgres_bin": str(source.bin)},
            "catalog": {"service": "none"},
            "encryption": {"recipients": [str(key.public)]} if key else {"enabled": False},
            "clusters": {"streamflix": {"connection": {"service": "streamflix"}, "wal": wal}},
        }
        self.settings_file.write_text(yaml.safe_dump(document))
        self.process: subprocess.Popen[bytes] | None = None
        self.said = folder / "receiver.log"

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("pgbackup")), "wal", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the same installation."""
        env = {**os.environ, "PGBACKUP_CONFIG": str(self.settings_file)}
        return subprocess.run(self.command(*arguments), env=env, capture_output=True, text=True, check=False)

    def start(self) -> None:
        env = {**os.environ, "PGBACKUP_CONFIG": str(self.settings_file)}
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(self.command("receive"), env=env, stdout=said, stderr=said)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, wait for its end, return its status; also when it had ended."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.process = None
        return status


@contextlib.contextmanager
def receiving(receiver: Receiver) -> Iterator[Receiver]:
    """Run it while the block runs."""
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.end()


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def told(site: Site) -> ReceiverStatus:
    """What the receiver said last; waits for its first word."""
    eventually(lambda: receiver_status(site.settings, "streamflix"))
    status = receiver_status(site.settings, "streamflix")
    assert status is not None
    return status


def listing(site: Site, source: Source) -> Listing:
    with source.connect("postgres") as connection:
        system = replication.position(connection).system_identifier
    return list_archive(site.local, "streamflix", system)


def is_sealed_to_now(site: Site, source: Source) -> Callable[[], bool]:
    """Close the present segment; return how to ask whether everything up to its end is sealed."""
    with source.connect("postgres") as connection:
        connection.execute("SELECT pg_logical_emit_message(true, 'test', 'the end')")
        connection.execute("SELECT pg_switch_wal()")
        now = replication.position(connection)
    wanted = Segment.holding(now.flush.minus(1), now.timeline, now.segment_size)
    return lambda: wanted in listing(site, source).segments


def check_archive(site: Site, source: Source, folder: Path, sent: Path | None = None) -> Listing:
    """Everything is sealed once, without a gap, equals what the server sent, and pg_waldump reads it end to end."""
    found = listing(site, source)
    assert found.conflicts == ()
    keys = [info.key for info in site.local.list("wal/")]
    files = [*found.segments.values(), *found.histories.values()]
    assert len(keys) == 2 * len(files), keys  # data and sidecar of each, nothing else
    with site.keyring.opened() as unlock:
        fetch_wal(site, site.local, files, folder, unlock, jobs=2)
    if sent is not None:
        for path in sent.iterdir():
            if path.suffix != ".partial":
                assert digest(path) == digest(folder / path.name), path.name
    for part in found.stretches:
        argv = [str(source.bin / "pg_waldump"), "--quiet", "-p", str(folder), "-t", str(part.timeline)]
        subprocess.run([*argv, "-s", str(part.start), "-e", str(part.end)], check=True, stdout=subprocess.DEVNULL)
    return found


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()

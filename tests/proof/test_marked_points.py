"""The marked point is exact: replay to it gives what the snapshot saw, hundreds of times, on a busy server.

Clients move money in two databases, with subtransactions, prepared transactions and every synchronous_commit; others
truncate and refill a table. Each snapshot's rows are read at once; then one server replays the WAL from marked point to
marked point, ascending, and shows its rows at each. Where the pause promotes it instead, it starts anew from the copy.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from pgbackup.domain.errors import BusyError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Content
from pgbackup.domain.model import ConnectionParameters
from pgbackup.postgres import describe, physical
from pgbackup.postgres.connection import connect, program_access
from pgbackup.postgres.marked_point import Commit, Visibility, commits, stop_range
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.snapshot import locked_snapshot
from pgbackup.postgres.throwaway import ThrowAwayServer, copy_server
from pgbackup.postgres.wal_stream import streaming_wal
from pgbackup.stream import Processes
from tests.support.source import Source
from tests.support.traffic import TOTAL, Traffic

SNAPSHOTS = int(os.environ.get("PGBACKUP_SNAPSHOTS", "100"))  # in each of two databases
DATABASES = ("one", "two")
TABLES = ("account", "transfer", "note")
MARGIN = 64 << 20


@dataclass(frozen=True)
class Seen:
    """What a snapshot showed of its database."""

    database: str
    xacts: str
    before: Lsn
    rows: dict[str, Content]


@pytest.fixture
def busy() -> Iterator[Source]:
    own = Source()
    try:
        own.make_roles()
        for name in DATABASES:
            own.execute(f"CREATE DATABASE {name}")
            own.execute("CREATE TABLE note (n int, text text)", name)
        own.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
        yield own
    finally:
        own.remove()


@contextlib.contextmanager
def truncating(source: Source, database: str) -> Iterator[None]:
    """Empty and refill a table, over and over."""
    stop = threading.Event()

    def work() -> None:
        chance = random.Random(database)
        with source.connect(database) as connection:
            while not stop.is_set():
                with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                    connection.execute("SET LOCAL lock_timeout = '200ms'")
                    connection.execute("TRUNCATE note")
                    connection.execute(
                        "INSERT INTO note SELECT n, md5(n::text) FROM generate_series(1, %s) AS n",
                        (chance.randint(1, 50),),
                    )
                time.sleep(0.02)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def look(source: Source, database: str) -> Seen:
    """Lock, take a snapshot, read the rows."""
    while True:
        with (
            contextlib.suppress(BusyError),
            locked_snapshot(source.parameters(), database, lock_timeout=timedelta(seconds=30)) as snapshot,
        ):
            return Seen(database, snapshot.xacts, Lsn.parse(snapshot.before_lsn), rows_of(snapshot.connection))


def rows_of(connection: psycopg.Connection[tuple]) -> dict[str, Content]:
    return {
        table.name: describe.content(connection, table) for table in describe.tables(connection) if table.name in TABLES
    }


def near(records: list[Commit], seen: Seen) -> list[Commit]:
    """What a capture would have read of the WAL."""
    low, high = seen.before.minus(MARGIN), seen.before.plus(MARGIN)
    return [record for record in records if low <= record.lsn <= high]


@pytest.mark.timeout(3600)
def test_replay_to_a_marked_point_shows_what_its_snapshot_saw(busy: Source, tmp_path: Path) -> None:
    runner, programs = Processes(), Programs(busy.bin)
    server = ThrowAwayServer(Path(tempfile.mkdtemp(dir="/tmp")) / "server", programs, runner, "postgres", 18)
    try:
        with (
            connect(busy.parameters()) as connection,
            program_access(busy.parameters()) as access,
            streaming_wal(programs, runner, access, connection, "postgres", tmp_path / "wal") as stream,
        ):
            server.folder.mkdir(parents=True)
            backup = ("pg_basebackup", "-D", str(server.data), "-X", "none", "-c", "fast", "--no-sync", "-d")
            runner.run(programs.command(*backup, access.conninfo("postgres"), env=access.env))
            wal = physical.read_backup_manifest(server.data / "backup_manifest")
            seen = collect(busy)
            closed = stream.close_segment()
            command = physical.read_transactions(
                programs, stream.folder, timeline=wal.timeline, start=wal.start, end=closed
            )
            records = list(commits(runner.run(command)[0].decode()))
            stream.end()
            for path in stream.segments():
                shutil.copy(path, server.data / "pg_wal")
        ranges = [
            (found.high, one)
            for one in seen
            if (
                found := stop_range(
                    near(records, one), Visibility.parse(one.xacts), before=one.before, consistent_from=wal.stop
                )
            )
        ]
        assert len(ranges) >= len(seen) // 2, "most snapshots have a marked point"
        compared = visit(runner, server, sorted(ranges, key=lambda pair: pair[0]))
        assert compared == len(ranges)
    finally:
        shutil.rmtree(server.folder.parent)


def collect(source: Source) -> list[Seen]:
    """Take the snapshots: most while everybody writes, some on a quiet server."""
    seen: list[Seen] = []
    for round_ in range(5):
        with contextlib.ExitStack() as stack:
            for database in DATABASES:
                traffic = stack.enter_context(Traffic(source, database, clients=3))
                stack.enter_context(truncating(source, database))
            for _ in range(SNAPSHOTS // 5):
                seen += [look(source, database) for database in DATABASES]
            assert traffic.transfers > 0, round_
        seen += [look(source, database) for database in DATABASES]  # nobody writes now
    for one in seen:
        assert one.rows["account"].rows > 0
    return seen


def visit(runner: Processes, server: ThrowAwayServer, points: list[tuple[Lsn, Seen]]) -> int:
    """Replay from point to point and compare the rows at each."""
    pristine = ThrowAwayServer(server.folder.with_name("pristine"), server.programs, runner, "postgres", 18)
    copy_server(runner, server, pristine.folder)
    for point, seen in points:
        if not at_point(runner, server, point, seen):
            server.discard()
            copy_server(runner, pristine, server.folder)
    return len(points)


def at_point(runner: Processes, server: ThrowAwayServer, point: Lsn, seen: Seen) -> bool:
    """Replay to a point and compare; False when the pause promoted the server: it shows the point, and cannot go on."""
    control, _ = runner.run(physical.read_control(server.programs, server.data))
    settings = {
        **physical.source_limits(control.decode()),
        "restore_command": "false",
        "recovery_target_lsn": str(point),
        "recovery_target_inclusive": "off",
        "recovery_target_action": "pause",
        "recovery_target_timeline": "1",
        "hot_standby": "on",
        "wal_level": "replica",
        "max_wal_senders": "10",
    }
    server.adopt(settings)
    with server.running(timeout=120) as parameters:
        state = wait_for(parameters, "paused", "promoted")
        try:
            compare(parameters, point, seen)
        except psycopg.errors.LockNotAvailable:  # of a TRUNCATE that has not committed here, and never does
            with connect(parameters, "postgres") as connection:
                connection.execute("SELECT pg_wal_replay_resume()")
            state = wait_for(parameters, "promoted")
            compare(parameters, point, seen)
    return state == "paused"


def compare(parameters: ConnectionParameters, point: Lsn, seen: Seen) -> None:
    with connect(parameters, seen.database) as connection:
        connection.execute("SET lock_timeout = '100ms'")
        assert rows_of(connection) == seen.rows, f"{seen.database} at {point}"
        row = connection.execute("SELECT sum(balance) FROM public.account").fetchone()
        assert row == (TOTAL,)


def wait_for(parameters: ConnectionParameters, *states: str) -> str:
    """Wait until a replay has come to one of the states; a pause may promote instead."""
    with connect(parameters, "postgres") as connection:
        while True:
            row = connection.execute(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE 'promoted' END"
            ).fetchone()
            if row and row[0] in states:
                return str(row[0])
            time.sleep(0.02)

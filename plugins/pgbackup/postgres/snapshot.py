"""One moment of one database that several connections and pg_dump can look at, with nothing changing under them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from pgbackup.domain.errors import BusyError, UnavailableError
from pgbackup.domain.model import ConnectionParameters
from pgbackup.postgres.connection import Connection, connect
from pgbackup.postgres.describe import TableSource, tables

_TRIES = 5
_BATCH = 200
_READER_LOCK_TIMEOUT = "30s"
_POSITION = (
    "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
    " ELSE pg_catalog.pg_current_wal_insert_lsn() END"
)
_LOCKS_GONE = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


@dataclass(frozen=True)
class Snapshot:
    """An exported snapshot: ``id`` to import it, ``xacts`` is xmin:xmax:xip.

    The WAL's insert position was ``before_lsn`` before the locks were taken, and ``lsn`` with the snapshot.
    """

    id: str
    xacts: str
    before_lsn: str
    lsn: str
    moment: datetime
    tables: tuple[TableSource, ...]
    connection: Connection


@contextlib.contextmanager
def locked_snapshot(parameters: ConnectionParameters, database: str, *, lock_timeout: timedelta) -> Iterator[Snapshot]:
    """Lock every table ACCESS SHARE, then take and export the snapshot; both are held until the block ends.

    The locks come first: a TRUNCATE between snapshot and lock would make the snapshot see an empty table. Raises
    BusyError when a lock is not granted in time or the tables keep changing.
    """
    with connect(parameters, database) as connection:
        milliseconds = int(lock_timeout.total_seconds() * 1000)
        connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (str(milliseconds),))
        for _ in range(_TRIES):
            with _lock_waits(database):
                snapshot = _try_snapshot(connection)
            if snapshot is not None:
                break
            connection.execute("ROLLBACK")
        else:
            raise BusyError(
                f"tables of database {database!r} are created or dropped faster than they can be locked",
                hint="try again when the migration has finished",
            )
        yield snapshot
        connection.execute("ROLLBACK")


@contextlib.contextmanager
def _lock_waits(database: str) -> Iterator[None]:
    """Say who made us wait too long; asking a locked table for its size waits as well."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise BusyError(
            f"a table of database {database!r} stayed locked by somebody else",
            detail=str(error).strip(),
            hint="look for ACCESS EXCLUSIVE locks in pg_locks; full_backup.lock_timeout says how long to wait",
        ) from None


def _try_snapshot(connection: Connection) -> Snapshot | None:
    before = tables(connection)
    before_lsn = _position(connection)
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        _lock(connection, before)
    except _LOCKS_GONE:
        return None
    row = connection.execute(
        "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.pg_current_snapshot()::text,"
        f" ({_POSITION})::text, pg_catalog.clock_timestamp()"
    ).fetchone()
    if row is None:
        raise UnavailableError("the server exported no snapshot")
    after = tables(connection)
    if {(table.schema_name, table.name) for table in after} != {(table.schema_name, table.name) for table in before}:
        return None
    return Snapshot(row[0], row[1], before_lsn, row[2], row[3], after, connection)


def _position(connection: Connection) -> str:
    row = connection.execute(f"SELECT ({_POSITION})::text").fetchone()
    if row is None:
        raise UnavailableError("the server does not say where its WAL is")
    return str(row[0])


def _lock(connection: Connection, wanted: Sequence[TableSource]) -> None:
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(table.identifier) for table in batch)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))


@contextlib.contextmanager
def imported_snapshot(
    parameters: ConnectionParameters, database: str, snapshot_id: str, wanted: Sequence[TableSource] = ()
) -> Iterator[Connection]:
    """Open a connection that sees exactly an exported snapshot, with locks of its own on the tables that it reads.

    Without these it could wait for ever: behind a statement that wants a table for itself, which waits for the
    snapshot's locks, which wait for this reader. Raises BusyError when somebody is waiting there already.
    """
    with connect(parameters, database) as connection, _lock_waits(database):
        connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (_READER_LOCK_TIMEOUT,))
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_id)))
        _lock(connection, wanted)
        yield connection
        connection.execute("ROLLBACK")

"""What a server says of its WAL: where it is, who keeps it, who archives it, when the last heartbeat was.

All of it is answered to a role that has pg_monitor and may read the heartbeat's table; PostgreSQL 15 and newer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row

from pgbackup.domain.lsn import Lsn
from pgbackup.domain.wal import parse_history
from pgbackup.postgres.connection import Connection

_SINCE_INVALIDATION_REASON = 170000
# A standby does not insert: it has replayed so far.
_NOW = "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE {} END"
_FLUSHED = _NOW.format("pg_catalog.pg_current_wal_flush_lsn()")
_INSERTED = _NOW.format("pg_catalog.pg_current_wal_insert_lsn()")


@dataclass(frozen=True)
class SlotState:
    """A replication slot. Sizes in bytes; ``safe_bytes`` is what may still be written before the server gives it up.

    ``restart_lsn`` is None for one that keeps nothing, ``safe_bytes`` where there is no limit (max_slot_wal_keep_size).
    """

    name: str
    physical: bool
    active: bool
    wal_status: str | None
    restart_lsn: Lsn | None
    invalidation_reason: str | None
    retained_bytes: int | None
    safe_bytes: int | None

    @property
    def lost(self) -> bool:
        """The server has given it up: what it kept may be gone."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def safe(self) -> bool:
        """The server keeps everything from ``restart_lsn`` on, and will keep it for now."""
        return not self.lost and self.wal_status in {"reserved", "extended"}


@dataclass(frozen=True)
class ArchiverState:
    """pg_stat_archiver, and whether archiving is on at all."""

    enabled: bool
    last_archived_wal: str | None
    last_archived_time: datetime | None
    failed_count: int
    last_failed_wal: str | None
    last_failed_time: datetime | None

    @property
    def failing(self) -> bool:
        """The last attempt failed."""
        failed, archived = self.last_failed_time, self.last_archived_time
        return failed is not None and (archived is None or failed > archived)


@dataclass(frozen=True)
class Position:
    """Where a server's WAL is; a standby's ``insert`` and ``flush`` are what it has replayed."""

    system_identifier: str
    timeline: int
    segment_size: int
    insert: Lsn
    flush: Lsn


@dataclass(frozen=True)
class Backlog:
    """The files that wait for the server's archiver. ``oldest`` is when the first of them was finished."""

    files: int
    oldest: datetime | None


def now(connection: Connection) -> datetime:
    """Return the server's clock, which heartbeats and archiving are stamped by."""
    row = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchall()[0]
    moment: datetime = row[0]
    return moment


def slot(connection: Connection, name: str) -> SlotState | None:
    """Return a replication slot; None when there is none of this name."""
    reason = "invalidation_reason" if connection.info.server_version >= _SINCE_INVALIDATION_REASON else "NULL"
    row = connection.execute(
        "SELECT slot_name::text, slot_type = 'physical', active, wal_status, restart_lsn::text,"  # noqa: S608 - constants
        f" {reason}, pg_catalog.pg_wal_lsn_diff({_INSERTED}, restart_lsn)::bigint, safe_wal_size"
        " FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
        (name,),
    ).fetchone()
    if row is None:
        return None
    name, physical, active, status, restart, *rest = row
    return SlotState(name, physical, active, status, Lsn.parse(restart) if restart else None, *rest)


def create_slot(connection: Connection, name: str) -> Lsn:
    """Create a physical slot that keeps WAL from now on; return from where. Raises psycopg's error when it exists."""
    row = connection.execute(
        "SELECT lsn::text FROM pg_catalog.pg_create_physical_replication_slot(%s, true)", (name,)
    ).fetchone()
    return Lsn.parse(row[0] if row else "")


def archiver(connection: Connection) -> ArchiverState:
    """Return how the server's own archiving goes (wal.method archive_command)."""
    with connection.cursor(row_factory=class_row(ArchiverState)) as cursor:
        return cursor.execute(
            "SELECT pg_catalog.current_setting('archive_mode') <> 'off' AS enabled, last_archived_wal,"
            " last_archived_time, failed_count, last_failed_wal, last_failed_time FROM pg_catalog.pg_stat_archiver"
        ).fetchall()[0]


def backlog(connection: Connection) -> Backlog:
    """Return what waits for the server's archiver."""
    row = connection.execute(
        "SELECT count(*), min(modification) FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
    ).fetchall()[0]
    return Backlog(row[0], row[1])


def archive_timeout(connection: Connection) -> timedelta:
    """Return after which time the server closes a segment that is not full; zero: never."""
    row = connection.execute(
        "SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'archive_timeout'"
    ).fetchall()[0]
    return timedelta(seconds=row[0])


def received(connection: Connection, slot: str) -> Lsn | None:
    """Return what the receiver on a slot says that it has written; None when nobody streams."""
    row = connection.execute(
        "SELECT greatest(r.write_lsn, r.flush_lsn)::text FROM pg_catalog.pg_stat_replication AS r"
        " JOIN pg_catalog.pg_replication_slots AS s ON s.active_pid = r.pid WHERE s.slot_name = %s",
        (slot,),
    ).fetchone()
    return Lsn.parse(row[0]) if row and row[0] else None


def position(connection: Connection) -> Position:
    """Return where the server's WAL is now."""
    row = connection.execute(
        "SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),"  # noqa: S608 - constants
        " CASE WHEN pg_catalog.pg_is_in_recovery()"
        " THEN coalesce((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),"
        " (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()))"
        " ELSE ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int END,"
        " (SELECT bytes_per_wal_segment FROM pg_catalog.pg_control_init()),"
        f" ({_INSERTED})::text, ({_FLUSHED})::text"
    ).fetchall()[0]
    return Position(row[0], row[1], row[2], Lsn.parse(row[3]), Lsn.parse(row[4]))


def branches(connection: Connection, timeline: int) -> frozenset[Lsn] | None:
    """Return where the histories branched off that led to a server's timeline; None when we may not read that."""
    name = f"pg_wal/{timeline:08X}.history"
    try:
        row = connection.execute("SELECT pg_catalog.pg_read_file(%s, 0, 1000000, true)", (name,)).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return frozenset(one.position for one in parse_history(row[0] or "")) if row else None


def newest_heartbeat(connection: Connection) -> tuple[datetime, Lsn] | None:
    """Return the newest heartbeat's moment and position; None when the database has none."""
    try:
        row = connection.execute(
            "SELECT moment, lsn::text FROM pgbackup.heartbeat ORDER BY beat_id DESC LIMIT 1"
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return (row[0], Lsn.parse(row[1])) if row else None


def beat_before(connection: Connection, lsn: Lsn) -> datetime | None:
    """Return the moment of the newest heartbeat before a position; None when there is none."""
    try:
        row = connection.execute(
            "SELECT moment FROM pgbackup.heartbeat WHERE lsn < %s::pg_lsn ORDER BY beat_id DESC LIMIT 1", (str(lsn),)
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return row[0] if row else None

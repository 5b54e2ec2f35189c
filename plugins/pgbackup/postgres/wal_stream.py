"""The WAL of one capture: streamed beside it from before its start, so that it can be proved without any archive."""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import UnavailableError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Process, Runner
from pgbackup.postgres.connection import Connection, ProgramAccess
from pgbackup.postgres.physical import receive_wal
from pgbackup.postgres.programs import Programs

_START = 30.0
_SWITCH = 120.0
_STOP = 30.0


@dataclass(frozen=True)
class WalStream:
    """A running pg_receivewal and the folder that it fills with finished segments."""

    folder: Path
    timeline: int
    segment_size: int
    process: Process
    connection: Connection
    slot: str

    def position(self) -> Lsn:
        """Return where the server inserts now; the WAL from the beginning of its segment on is received."""
        row = self.connection.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchone()
        return Lsn.parse(row[0] if row else "")

    def close_segment(self) -> Lsn:
        """Make a whole segment of everything up to now, and wait until it is here; return the position behind it.

        A message goes first, so that on a quiet server too a record exists behind whatever came before.
        """
        _write_something(self.connection)
        row = self.connection.execute("SELECT pg_catalog.pg_switch_wal()::text").fetchone()
        end = Lsn.parse(row[0] if row else "")
        wanted = self.folder / end.segment(self.timeline, self.segment_size)
        deadline = time.monotonic() + _SWITCH
        while not wanted.exists():
            self._check("the WAL of this capture stopped coming", deadline)
        return end

    def end(self) -> None:
        """Stop streaming, and let the server remove its WAL again."""
        self.process.stop(signal.SIGINT, _STOP)
        self.connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (self.slot,))

    def segments(self) -> tuple[Path, ...]:
        """Return the finished segments and history files, in order."""
        return tuple(sorted(path for path in self.folder.iterdir() if not path.name.endswith(".partial")))

    def wait_for_start(self) -> None:
        """Wait until the first bytes are here: from this segment on nothing is missing."""
        deadline = time.monotonic() + _START
        while not any(self.folder.iterdir()):
            self._check("no WAL is coming", deadline)

    def _check(self, message: str, deadline: float) -> None:
        if self.process.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(
                message,
                detail=self.process.stderr()[-2000:] or None,
                hint="pg_receivewal needs a replication connection: REPLICATION, max_wal_senders, pg_hba.conf",
            )
        time.sleep(0.05)


@contextlib.contextmanager
def streaming_wal(
    programs: Programs, runner: Runner, access: ProgramAccess, connection: Connection, database: str, folder: Path
) -> Iterator[WalStream]:
    """Stream WAL into a new folder while the block runs."""
    folder.mkdir(mode=0o700, parents=True)
    # A temporary slot of our own session keeps the server from removing what pg_receivewal has not read yet; it is
    # gone when the session is, so that a killed capture never fills the server's disk.
    slot = f"pgbackup_{secrets.token_hex(4)}"
    connection.execute("SELECT pg_catalog.pg_create_physical_replication_slot(%s, true, true)", (slot,))
    row = connection.execute(
        "SELECT ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int,"
        " (SELECT bytes_per_wal_segment FROM pg_catalog.pg_control_init())"
    ).fetchone()
    if row is None:
        raise UnavailableError("the server does not say which timeline it is on")
    _write_something(connection)  # else a quiet server sends nothing, for up to 15 seconds
    process = runner.spawn(receive_wal(programs, access, database, folder))
    try:
        stream = WalStream(folder, row[0], row[1], process, connection, slot)
        stream.wait_for_start()
        yield stream
    finally:
        process.stop(signal.SIGINT, _STOP)


def _write_something(connection: Connection) -> None:
    connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'pgbackup', 'capture')")

"""A server that nobody writes to: new transactions are read only, and what was connected is not any more."""

from __future__ import annotations

import time

from pgbackup.domain.errors import UnavailableError
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.describe import query

READ_ONLY = "default_transaction_read_only"
_PATIENCE = 5000  # milliseconds for a session to end
_RELOADED = 30.0


def is_superuser(connection: Connection) -> bool:
    """Tell whether we may stop and allow writes, for all."""
    row = connection.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").fetchone()
    return bool(row and row[0])


def forbid_writes(connection: Connection) -> None:
    """Let new transactions only read, of new sessions at once; sessions that set it themselves (ours) still write."""
    connection.execute(f"ALTER SYSTEM SET {READ_ONLY} = on".encode())
    _reload(connection, "on")


def allow_writes(connection: Connection) -> None:
    """Take the above back."""
    connection.execute(f"ALTER SYSTEM RESET {READ_ONLY}".encode())
    _reload(connection, "off")


def forbids_writes(connection: Connection) -> bool:
    """Tell whether new transactions may only read, whatever our own session has set."""
    return _is(connection) == "on"


def _is(connection: Connection) -> str:
    [value] = connection.execute(
        "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = %s", (READ_ONLY,)
    ).fetchone() or ("",)
    return str(value)


def _reload(connection: Connection, value: str) -> None:
    """Wait until the server uses a value; its postmaster has it before any of its sessions."""
    connection.execute("SELECT pg_catalog.pg_reload_conf()")
    deadline = time.monotonic() + _RELOADED
    while _is(connection) != value:
        if time.monotonic() > deadline:
            raise UnavailableError(f"the server does not take {READ_ONLY} = {value}", hint="who else sets it?")
        time.sleep(0.01)


def clients(connection: Connection) -> int:
    """Count the sessions of others."""
    return connection.execute(_CLIENTS.format("pid").encode()).rowcount


def end_clients(connection: Connection) -> int:
    """End the sessions of others and wait for them; return how many there were."""
    return connection.execute(_CLIENTS.format(f"pg_catalog.pg_terminate_backend(pid, {_PATIENCE})").encode()).rowcount


_CLIENTS = (
    "SELECT {} FROM pg_catalog.pg_stat_activity"
    " WHERE pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'"
)


def left_behind(connection: Connection, receiver: str) -> tuple[str, ...]:
    """Say what does not come along to a recovered cluster; ``receiver`` is the slot that does."""
    return tuple(row[0] for row in connection.execute(query("left_behind"), {"receiver": receiver}).fetchall())


def prepared(connection: Connection) -> tuple[str, ...]:
    """List the prepared transactions, which wait for a decision."""
    rows = connection.execute("SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY prepared").fetchall()
    return tuple(row[0] for row in rows)

"""Put a restored database in the place of the present one by renaming both; neither is ever dropped."""

from __future__ import annotations

import psycopg
from psycopg import sql

from pgbackup.domain.errors import BusyError
from pgbackup.postgres.beside import comment_on, rename
from pgbackup.postgres.connection import Connection

_PATIENCE = 5000  # milliseconds for a session to end


def allow_connections(connection: Connection, database: str, *, allowed: bool) -> None:
    """Let new sessions in, or keep everybody out, superusers too; present sessions stay."""
    connection.execute(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(database), sql.Literal(allowed))
    )


def allows_connections(connection: Connection, database: str) -> bool:
    """Tell whether new sessions are let in."""
    row = connection.execute(
        "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = %s", (database,)
    ).fetchone()
    return bool(row and row[0])


def end_sessions(connection: Connection, databases: list[str]) -> int:
    """End the sessions in some databases and wait for them; return how many there were."""
    return connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid, %s) FROM pg_catalog.pg_stat_activity"
        " WHERE datname = ANY (%s) AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'",
        (_PATIENCE, databases),
    ).rowcount


def swap(connection: Connection, present: str | None, fresh: str, *, name: str, before: str, comment: str) -> None:
    """Rename in one transaction: the present database (if any) to ``before``, the fresh one to ``name``.

    The old one keeps refusing connections, so that nothing is written where nobody looks. Raises BusyError when
    somebody is still connected to one of them.
    """
    try:
        with connection.transaction():
            if present is not None:
                connection.execute(rename(present, before))
                connection.execute(comment_on(before, comment))
            connection.execute(rename(fresh, name))
    except psycopg.errors.ObjectInUse as error:
        raise BusyError(
            "somebody is still connected: nothing was renamed", detail=str(error).strip(), hint="try again"
        ) from None


def comment_of(connection: Connection, database: str) -> str | None:
    """Return a database's comment."""
    row = connection.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = %s",
        (database,),
    ).fetchone()
    return row[0] if row else None


def obstacles(connection: Connection, database: str) -> tuple[str, ...]:
    """List what keeps a database from being renamed until somebody decides: prepared transactions."""
    rows = connection.execute(
        "SELECT pg_catalog.format('prepared transaction %%s of %%s', gid, owner)"
        " FROM pg_catalog.pg_prepared_xacts WHERE database = %s",
        (database,),
    ).fetchall()
    return tuple(row[0] for row in rows)


def followers(connection: Connection, database: str) -> tuple[str, ...]:
    """List the logical replication slots that stay with the old database."""
    rows = connection.execute(
        "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE database = %s", (database,)
    ).fetchall()
    return tuple(row[0] for row in rows)

"""Let a throw-away server check its foreign keys again, against the rows that it holds."""

from __future__ import annotations

import psycopg
from psycopg import sql

from pgbackup.postgres.connection import Connection

# Those of partitioned tables are their partitions' own. One that leads to a partitioned table has parts on the same
# table, one for each partition there: no row has to meet all of these.
_FORGET = """
UPDATE pg_catalog.pg_constraint AS k SET convalidated = false
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.convalidated AND c.oid = k.conrelid AND c.relkind = 'r' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_constraint AS whole WHERE whole.oid = k.conparentid AND whole.conrelid = k.conrelid)
RETURNING n.nspname, c.relname, k.conname
"""


def check_foreign_keys(connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Return how many foreign keys the server vouched for, and the tables and names of those that do not hold.

    Replay brings back that a key was valid, not whether its rows are: here the server reads them, with its own code.
    Needs a superuser; nothing of it stays.
    """
    broken: list[str] = []
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")  # no event trigger has a say in it
        keys = connection.execute(_FORGET).fetchall()
        for schema, table, name in keys:
            statement = sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}")
            try:
                with connection.transaction():
                    connection.execute(statement.format(sql.Identifier(schema, table), sql.Identifier(name)))
            except psycopg.errors.ForeignKeyViolation:
                broken.append(f"{name} on {schema}.{table}")
    return len(keys), tuple(broken)

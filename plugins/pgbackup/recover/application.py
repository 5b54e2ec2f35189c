"""Whether the application can work in a database of the protected server: its role may connect, its queries answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
from psycopg import sql

from pgbackup.domain import findings as named
from pgbackup.domain.findings import Answer, timed
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.settings import Query, VerifyBackup
from pgbackup.postgres.connection import connect


def application_findings(
    settings: VerifyBackup, parameters: ConnectionParameters, *, database: str, actual: str
) -> Iterator[Finding]:
    """Ask what is configured for ``database`` of the database that is called ``actual`` now.

    We have no password of the application: its right to connect is looked up, and its queries run as its role.
    """
    role = settings.application_role
    if role:
        yield timed(named.APPLICATION, lambda: _may_connect(parameters, role, actual), clock=time.monotonic)
    queries = [query for query in settings.queries if query.database == database]
    if queries:
        yield timed(named.QUERIES, lambda: _answers(parameters, role, actual, queries), clock=time.monotonic)


def _may_connect(parameters: ConnectionParameters, role: str, database: str) -> Answer:
    with connect(parameters) as connection:
        row = connection.execute(
            "SELECT r.rolcanlogin, d.datallowconn AND pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')"
            " FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d WHERE r.rolname = %s AND d.datname = %s",
            (role, database),
        ).fetchone()
    if row is None or not all(row):
        return False, f"{role} may not connect to {database}", "look at the role's LOGIN and the database's grants"
    return True, role, ""


def _answers(parameters: ConnectionParameters, role: str | None, database: str, queries: list[Query]) -> Answer:
    with connect(parameters, database, pinned=False) as connection:
        for query in queries:
            limit = query.within.total_seconds()
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute("SET TRANSACTION READ ONLY")
                    connection.execute(f"SET LOCAL statement_timeout = {int(max(60.0, 10 * limit) * 1000)}")
                    if role:
                        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
                    begun = time.monotonic()
                    connection.execute(query.sql.encode()).fetchall()
            except psycopg.Error as error:
                return False, f"{query.sql[:80]}: {str(error).strip()}", "does the query still fit the schema?"
            seconds = time.monotonic() - begun
            if seconds > limit:
                return False, f"{query.sql[:80]}: {seconds:.1f} s, allowed {limit:.1f} s", "is the server warm?"
    return True, f"{len(queries)} queries", ""

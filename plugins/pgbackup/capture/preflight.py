"""What must be true before a backup starts: rights, versions, space, keys, clock. ``doctor`` asks the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import psycopg

from pgbackup.capture.source import fitting_programs, refuse_standby
from pgbackup.capture.writer import try_signing
from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.findings import Answer, timed
from pgbackup.domain.model import Finding, State
from pgbackup.domain.ports import Site
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.postgres.dump import compression_for

log = logging.getLogger(__name__)

_CLOCK_SKEW = 5.0
_PHYSICAL = ("pg_basebackup", "pg_receivewal", "pg_waldump")
_RIGHTS = (
    (
        "reads all data",
        "pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')",
        "GRANT pg_read_all_data TO {role}",
    ),
    (
        "may replicate",
        "(SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)",
        "ALTER ROLE {role} REPLICATION",
    ),
    (
        "sees past row security",
        "(SELECT rolbypassrls OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)",
        "ALTER ROLE {role} BYPASSRLS",
    ),
    ("monitors", "pg_catalog.pg_has_role('pg_monitor', 'USAGE')", "GRANT pg_monitor TO {role}"),
    (
        "reads large objects",
        "(SELECT pg_catalog.current_setting('lo_compat_privileges') = 'on' OR rolsuper"  # noqa: ISC004
        " FROM pg_catalog.pg_roles WHERE rolname = current_user)",
        "ALTER ROLE {role} SET lo_compat_privileges = on",
    ),
    (
        "switches WAL segments",
        "pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO {role}",
    ),
    (
        "names restore points",
        "pg_catalog.has_function_privilege('pg_catalog.pg_create_restore_point(text)', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO {role}",
    ),
)


def preflight(site: Site, cluster: str) -> tuple[Finding, ...]:
    """Check everything that a backup of the cluster needs; never raises for what a check finds."""
    settings = site.settings.cluster(cluster)
    parameters = site.connections(cluster)
    findings = [
        _ask("catalog answers", lambda: _catalog(site)),
        _ask("keys are valid", lambda: _keys(site)),
    ]
    reachable = _ask("server answers", lambda: _server(connect(parameters)))
    findings.append(reachable)
    if not reachable.ok:
        return tuple(findings)
    with connect(parameters) as connection:
        findings.append(_ask("server is a primary", lambda: _primary(connection)))
        findings.append(_ask("client programs fit the server", lambda: _versions(site, cluster, connection)))
        findings.append(_ask("clocks agree", lambda: _clock(site, connection)))
        findings.extend(_rights(connection))
        if settings.full_backup.base:
            findings.append(_ask("WAL can be streamed", lambda: _replication(site, cluster)))
        findings.append(_ask("local repository has space", lambda: _space(site, cluster, connection)))
        databases = [name for name in describe.databases(connection) if name not in settings.exclude_databases]
    findings.extend(
        _ask(f"may connect to {database!r}", partial(_server_of, site, cluster, database)) for database in databases
    )
    findings.extend(_heartbeat(site, cluster, databases))
    return tuple(findings)


def _ask(name: str, check: Callable[[], Answer]) -> Finding:
    def answer() -> Answer:
        try:
            with server_errors("the server"):
                return check()
        except PgBackupError as error:
            return (
                False,
                f"{error.message}: {error.detail}" if error.detail else error.message,
                error.hint or "",
            )

    finding = timed(name, answer, clock=time.monotonic)
    log.info("%s: %s %s", finding.name, "ok" if finding.ok else "FAILED", finding.detail)
    return finding


def _server(connection: Connection) -> Answer:
    with connection:
        return True, describe.server(connection).version_text, ""


def _server_of(site: Site, cluster: str, database: str) -> Answer:
    with connect(site.connections(cluster), database):
        return True, "", ""


def _replication(site: Site, cluster: str) -> Answer:
    with connect(site.connections(cluster).replace(replication="true"), pinned=False):
        return True, "", ""


def _catalog(site: Site) -> Answer:
    verified = site.catalog.backups(states=frozenset({State.VERIFIED}))
    return True, f"{len(verified)} verified backups", ""


def _keys(site: Site) -> Answer:
    recipients = site.keyring.recipients()
    try_signing(site)
    return True, ", ".join(recipients) or "encryption is off", ""


def _primary(connection: Connection) -> Answer:
    refuse_standby(connection)
    return True, "", ""


def _versions(site: Site, cluster: str, connection: Connection) -> Answer:
    programs, version = fitting_programs(site, describe.server(connection))
    options = site.settings.cluster(cluster).full_backup
    missing = [name for name in _PHYSICAL if options.base and not (programs.folder / name).exists()]
    if missing:
        detail = f"{', '.join(missing)} not in {programs.folder}"
        return (
            False,
            detail,
            f"install postgresql-{version.split('.')[0]}: not all of them come with its client package",
        )
    return True, f"pg_dump {version}, --compress={compression_for(options.compression, version)}", ""


def _clock(site: Site, connection: Connection) -> Answer:
    before = site.clock()
    row = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
    skew = abs((row[0] - before).total_seconds()) if row else 0.0
    return (
        skew <= _CLOCK_SKEW,
        f"{skew:.1f} s apart",
        "run NTP on both machines: backup ids, retention and recovery targets are times",
    )


def _space(site: Site, cluster: str, connection: Connection) -> Answer:
    """Ask for twice what the last backup took, else for the databases' own size."""
    free = site.local.free_bytes()
    last = next((backup.bytes for backup in site.catalog.backups(cluster) if backup.bytes), None)
    row = connection.execute(
        "SELECT sum(pg_catalog.pg_database_size(oid))::bigint FROM pg_catalog.pg_database WHERE datallowconn"
    ).fetchone()
    needed = 2 * last if last else (row[0] if row else 0)
    detail = f"{needed / 1e6:.0f} MB wanted" + ("" if free is None else f", {free / 1e6:.0f} MB free")
    return free is None or free >= needed, detail, "free space, or let paths.backups point to a larger disk"


def _rights(connection: Connection) -> Iterator[Finding]:
    row = connection.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
    role = row[0] if row else "backup"
    for name, expression, grant in _RIGHTS:
        yield _ask(f"role {name}", partial(_right, connection, expression, grant.format(role=role)))


def _right(connection: Connection, expression: str, grant: str) -> Answer:
    row = connection.execute(f"SELECT {expression}").fetchone()
    return bool(row and row[0]), "", f"as a superuser: {grant}"


def _heartbeat(site: Site, cluster: str, databases: list[str]) -> Iterator[Finding]:
    """The heartbeat table measures the RPO; one database of the cluster must have it."""

    def check() -> Answer:
        holders = []
        for database in databases:
            with connect(site.connections(cluster), database) as connection:
                try:
                    row = connection.execute(
                        "SELECT pg_catalog.has_table_privilege('pgbackup.heartbeat', 'INSERT')"
                    ).fetchone()
                except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                    continue
                if row and row[0]:
                    holders.append(database)
        return bool(holders), ", ".join(holders), "run include/sql/streamflix/pgbackup.sql in one database"

    yield _ask("heartbeat can be written", check)

"""A side server: a cluster recovered to a moment in the spool, only to be dumped; nothing of it stays."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from psycopg import sql

from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.manifest import HASH_VERSION, Database, Table
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.postgres import describe, dump
from pgbackup.postgres.connection import Connection, connect, program_access, server_errors
from pgbackup.postgres.describe import TableSource
from pgbackup.recover.cluster import Recovery
from pgbackup.recover.dumps import PlainDump, near
from pgbackup.recover.planning import plan
from pgbackup.recover.replay import Replayed, wait_for_leftover
from pgbackup.recover.workplace import Workplace, workplace
from pgbackup.restore.holds import leased
from pgbackup.scratch import make_private

Name = tuple[str, str]

_OPTION, _COMMAND_LINE = 40, 1_000_000
"""Bytes: an option's own and its pointer; half of what Linux allows with the usual limit of the stack."""


@contextlib.contextmanager
def private_place(folder: Path) -> Iterator[Workplace]:
    """Hold a place in the spool that is empty at the beginning, whoever was killed there, and at the end.

    Raises BusyError while another process holds it.
    """
    make_private(folder.parent)
    with workplace(folder) as place:
        wait_for_leftover(place.server / "data")
        place.empty()
        try:
            yield place
        finally:
            place.empty()


@contextlib.contextmanager
def spool_errors() -> Iterator[None]:
    """Turn what the spool's filesystem refuses into an error of ours."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            "cannot recover in the spool", detail=str(error), hint="free space where `paths.spool` is"
        ) from error


def side_folder(site: Site, cluster: str) -> Path:
    """Return where a cluster's side server is: there is one at a time."""
    return site.spool / "side" / cluster


@contextlib.contextmanager
def dumped_at(site: Site, approved: RecoveryPlan, database: str, table: Name | None) -> Iterator[PlainDump]:
    """Recover a cluster aside to a plan's target and dump a database there, or with the rows of one table only.

    What it yields is described and fingerprinted on the side server, which is gone by then; the dump goes with the
    block. Planned again, because backups may have gone, and WAL come, since it was approved. Raises RefusedError when
    the target cannot be reached, or database or table were not there then.
    """
    with private_place(side_folder(site, approved.cluster)) as place:
        with spool_errors(), server_errors("the side server"):
            named = None if approved.others else approved.repository
            planned = plan(site, approved.cluster, approved.target, timeline=approved.branch, repository=named)
            place.take_up(planned)
            recovery = Recovery(site, planned, place)
            with leased(site, planned.repository, planned.backups, f"recovery to {planned.target}"):
                found = recovery.replayed()
            shutil.rmtree(place.files)
            made = recovery.measured("dump", lambda: _dump(site, recovery, found, database, table))
            recovery.server.discard()
        yield dataclasses.replace(made, steps=tuple(recovery.steps))


def _dump(site: Site, recovery: Recovery, found: Replayed, database: str, table: Name | None) -> PlainDump:
    server, path, target = recovery.server, recovery.place.folder / "rows.dump", str(recovery.plan.target)
    version = server.programs.version(site.runner)
    with server.running() as parameters:
        _refuse_unknown(parameters, database, target)
        with connect(parameters, database) as connection:
            undecided = tuple(_given_up(connection))
            tables = describe.tables(connection)
            wanted = frozenset(map(_name, tables))
            if table:
                wanted &= describe.partitions(connection, *table)
                _refuse_lost(tables, wanted, table, target)
            entry = _entry(connection, database, found, tables, wanted)
            if table is None:
                entry = entry.model_copy(update={"large_objects": describe.large_objects(connection)})
            roles, _ = describe.roles(connection)
        compression = site.settings.cluster(recovery.plan.cluster).full_backup.compression
        with program_access(parameters) as access:
            command = dump.dump_at_rest(
                server.programs,
                access,
                database,
                path,
                compression=dump.compression_for(compression, version),
                without_rows_of=_patterns(tables, wanted),
                large_objects=table is None,
            )
            site.runner.run(command)
    described = {
        "id": f"{recovery.plan.cluster} at {target}",
        "client_version": version,
        "hash_version": HASH_VERSION,
        "roles": roles,
        "databases": (entry,),
    }
    notes = (f"transaction {gid!r} was prepared and undecided then: nothing of it is here" for gid in undecided)
    return PlainDump(recovery.last.model_copy(update=described), entry, path, notes=tuple(notes))


def _given_up(connection: Connection) -> Iterator[str]:
    """Roll back what was prepared in the connected database: nobody will decide it here, and it holds locks."""
    rows = connection.execute(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared"
    )
    for (gid,) in rows.fetchall():
        connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        yield gid


def _refuse_unknown(parameters: ConnectionParameters, database: str, target: str) -> None:
    with connect(parameters) as connection:
        names = describe.databases(connection)
    if database not in names:
        raise RefusedError(
            f"there was no database {database!r} at {target}",
            detail=f"there were {', '.join(map(repr, names))}",
            hint="choose a moment at which it was there",
        )


def _refuse_lost(tables: tuple[TableSource, ...], wanted: frozenset[Name], table: Name, target: str) -> None:
    if not wanted:
        raise RefusedError(
            f"there was no table {'.'.join(table)} at {target}",
            detail=near(".".join(table), (".".join(_name(one)) for one in tables)),
            hint="choose a moment at which it was there",
        )
    if any(one.unlogged and _name(one) in wanted for one in tables):
        raise RefusedError(
            f"{'.'.join(table)} was unlogged at {target}: no WAL holds its rows",
            hint="recover it from a full backup: --backup",
        )


def _entry(
    connection: Connection, database: str, found: Replayed, tables: tuple[TableSource, ...], wanted: frozenset[Name]
) -> Database:
    """Describe a database as a backup's manifest does, with fingerprints of the wanted tables."""
    return Database(
        **describe.database(connection),
        name=database,
        file=None,
        format=None,
        snapshot="",
        snapshot_lsn=str(found.lsn),
        sequences=describe.sequences(connection),
        tables=tuple(
            Table(
                schema_name=one.schema_name,
                name=one.name,
                kind=one.kind,
                unlogged=one.unlogged,
                content=describe.content(connection, one) if one.kind == "r" and _name(one) in wanted else None,
            )
            for one in tables
        ),
        large_objects=None,
    )


def _patterns(tables: tuple[TableSource, ...], wanted: frozenset[Name]) -> tuple[str, ...]:
    """Name the tables whose rows stay out; a schema of which none is wanted at once.

    None when they don't fit into a command line: all rows in the dump cost time and space, and nothing else.
    """
    schemas = {schema for schema, _ in wanted}
    others = sorted({one.schema_name for one in tables} - schemas)
    rest = (one for one in tables if one.schema_name in schemas and _name(one) not in wanted)
    found = (
        *(f"{_quoted(schema)}.*" for schema in others),
        *(f"{_quoted(one.schema_name)}.{_quoted(one.name)}" for one in rest),
    )
    return found if sum(len(one.encode()) + _OPTION for one in found) < _COMMAND_LINE else ()


def _name(table: TableSource) -> Name:
    return table.schema_name, table.name


def _quoted(name: str) -> str:
    """Quote for a pattern of pg_dump: within quotes nothing else is special."""
    return '"' + name.replace('"', '""') + '"'

"""Recover one table from a dump: beside the present one, in its place under its OID, or only the rows that are missing.

The rows go from pg_restore straight into the server, into a table of ours beside; nothing else is restored anywhere.
The rows of a table that is there are replaced in one transaction, after a look at what would refer to nothing. A table
that is gone is made again by its own name, in one transaction too.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import psycopg
from psycopg import sql

from pgbackup.domain.errors import BusyError, RefusedError, UnfitError
from pgbackup.domain.findings import some
from pgbackup.domain.manifest import Table
from pgbackup.domain.model import Verdict
from pgbackup.domain.ports import Site
from pgbackup.postgres import replace
from pgbackup.postgres.beside import MARK, stamped
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.postgres.replace import Present, Violation
from pgbackup.postgres.rows import RowSink
from pgbackup.postgres.toc import Archive, Entry, read_archive, table_texts
from pgbackup.recover.again import make_again
from pgbackup.recover.dumps import Dump, choose_dump, fetched, fitting_programs

log = logging.getLogger(__name__)


class Way(StrEnum):
    """What to do with the rows of a table that is still there."""

    BESIDE = "beside"
    IN_PLACE = "in place"
    MERGE = "merge"


@dataclass(frozen=True)
class TablePlan:
    """What a recovery will do. ``rows`` is what the backup holds, None where it was not counted.

    A table that is not ``present`` is made again by its own name, whatever the way.
    """

    cluster: str
    database: str
    schema_name: str
    name: str
    way: Way
    present: bool
    repository: str
    backup_id: str
    backup_time: datetime
    verdict: Verdict | None
    rows: int | None
    dump_bytes: int


@dataclass(frozen=True)
class RecoveredTable:
    """What was done. ``staged`` is the table beside, None when its rows are in place; ``before`` has the old rows.

    ``added`` rows are new in the table. Of a table beside: ``missing`` of its rows would be added by a merge (None: no
    primary key), ``violations`` would come from putting it in place.
    """

    plan: TablePlan
    rows: int
    staged: str | None
    before: str | None
    added: int
    missing: int | None
    violations: tuple[Violation, ...]
    notes: tuple[str, ...]


def plan_table(
    site: Site,
    cluster: str,
    database: str,
    table: str,
    backup_id: str | None = None,
    *,
    way: Way = Way.BESIDE,
    repository: str = "local",
    even_rejected: bool = False,
) -> TablePlan:
    """Plan to recover a table (``schema.table``, no quotes) from a full backup, the newest verified one by default.

    Raises RefusedError when the backup never held it or the way is closed, UnfitError for a missing right.
    """
    found = choose_dump(site, cluster, database, backup_id, repository=repository, even_rejected=even_rejected)
    known = _find(found, table)
    with server_errors(cluster), connect(site.recovery_connections(cluster), database) as connection:
        fitting_programs(site, connection, found.manifest)
        present = replace.look_up(connection, known.schema_name, known.name)
        if present is not None:
            _refuse_closed(connection, present, way)
    return TablePlan(
        cluster=cluster,
        database=database,
        schema_name=known.schema_name,
        name=known.name,
        way=way,
        present=present is not None,
        repository=repository,
        backup_id=found.manifest.id,
        backup_time=found.manifest.backup_time,
        verdict=found.verdict,
        rows=_rows([known]) if known.kind == "r" else None,
        dump_bytes=found.file.stored_bytes,
    )


def recover_table(site: Site, plan: TablePlan) -> RecoveredTable:
    """Carry a plan out. Whatever ends it early, present rows are as they were; a table beside may stay, marked as ours.

    Raises RefusedError, having changed nothing, when rows would refer to nothing, don't fit the table as it is now, or
    are not as many as the backup says.
    """
    found = choose_dump(
        site, plan.cluster, plan.database, plan.backup_id, repository=plan.repository, even_rejected=True
    )
    parameters = site.recovery_connections(plan.cluster)
    with server_errors(plan.cluster), connect(parameters, plan.database) as connection, fetched(site, found) as path:
        programs = fitting_programs(site, connection, found.manifest)
        archive = read_archive(site.runner, programs, path, found.entry.encoding)
        tree = archive.tree(archive.table(plan.schema_name, plan.name, found.manifest.roles))
        expected = _rows(_leaves(found, tree))
        present = replace.look_up(connection, plan.schema_name, plan.name)
        if present is None:
            rows, notes = make_again(connection, archive, tree, expected, _refuse_misfits(plan))
            return RecoveredTable(plan, rows, None, None, rows, None, (), notes)
        return _Recovery(site, plan, connection, present).make(archive, tree, expected)


@dataclass(frozen=True)
class _Recovery:
    """One recovery under way, of a table that is there."""

    site: Site
    plan: TablePlan
    connection: Connection
    present: Present

    def make(self, archive: Archive, tree: tuple[Entry, ...], expected: int | None) -> RecoveredTable:
        plan, present, moment = self.plan, self.present, self.site.clock()
        _refuse_closed(self.connection, present, plan.way)
        staged = self._free("restored", moment)
        rows, columns, notes = self._stage(archive, tree, staged, expected)
        if plan.way is Way.BESIDE:
            lacking = replace.count(self.connection, staged, replace.missing(present)) if present.key else None
            found = replace.violations(self.connection, present, staged)
            return RecoveredTable(plan, rows, _dotted(staged), None, 0, lacking, found, notes)
        before = self._free("before", moment)
        added = self._put(staged, before, columns)
        self.connection.execute(sql.SQL("ANALYZE {}").format(present.identifier))
        kept = _dotted(before) if plan.way is Way.IN_PLACE else None
        return RecoveredTable(plan, rows, None, kept, added, None, (), notes)

    def _free(self, word: str, moment: datetime) -> sql.Identifier:
        """Return a name beside the table's that nobody has."""
        schema, name = self.present.schema_name, stamped(self.present.name, word, moment)
        while replace.look_up(self.connection, schema, name) is not None:
            moment += timedelta(seconds=1)
            name = stamped(self.present.name, word, moment)
        return sql.Identifier(schema, name)

    def _stage(
        self, archive: Archive, tree: tuple[Entry, ...], staged: sql.Identifier, expected: int | None
    ) -> tuple[int, list[str], tuple[str, ...]]:
        """Bring the rows into a table beside, at once; return how many, their columns and what to know of them."""
        plan, present = self.plan, self.present
        note = f"{MARK}rows of {plan.schema_name}.{plan.name} in {plan.backup_id}"
        data = [entry for entry in archive.parts(tree) if entry.text.startswith("TABLE DATA ")]
        with _refuse_misfits(plan), self.connection.transaction():
            replace.stage(self.connection, present, staged, note)
            with RowSink(self.connection, staged) as sink:
                if data:
                    archive.runner.pipe(archive.script(data, "--data-only"), sink=sink)
            self.connection.execute("SET client_encoding = 'UTF8'")
            newer = replace.forget_newer(self.connection, present, staged, sink.columns) if data else []
            rows = sink.rows
            if expected not in {None, rows}:
                raise RefusedError(f"{rows} rows came, the backup has {expected}", hint="recover from another copy")
        notes = [f"columns younger than the backup get their defaults: {some(newer)}"] if newer else []
        columns = [column for column in present.columns if column not in newer]
        return rows, columns, tuple(notes)

    def _put(self, staged: sql.Identifier, before: sql.Identifier, columns: list[str]) -> int:
        """Put the staged rows into the table and drop the staged table, in one transaction."""
        plan, present = self.plan, self.present
        only = replace.missing(present) if plan.way is Way.MERGE else None
        wait = self.site.settings.cluster(plan.cluster).full_backup.lock_timeout.total_seconds()
        with _refuse_misfits(plan), self.connection.transaction():
            replace.lock(self.connection, present, wait)
            found = replace.violations(self.connection, present, staged, only)
            if found:
                raise RefusedError(
                    "rows would refer to nothing: nothing was changed",
                    detail="\n".join(map(str, found)),
                    hint=f"the rows are in {_dotted(staged)}; merge what is missing, or recover the other table, too",
                )
            if only is None:
                note = f"{MARK}rows of {plan.schema_name}.{plan.name} before the recovery from {plan.backup_id}"
                replace.set_aside(self.connection, present, before, note)
            added = replace.put(self.connection, present, staged, columns, only)
            self.connection.execute(sql.SQL("DROP TABLE {}").format(staged))
        return added


def _find(found: Dump, table: str) -> Table:
    """Return a table of the backup by its dotted name, which is compared, never taken apart."""
    tables = {f"{one.schema_name}.{one.name}": one for one in found.entry.tables}
    same = [one for one in found.entry.tables if f"{one.schema_name}.{one.name}" == table]
    if len(same) == 1:
        return same[0]
    near = difflib.get_close_matches(table, tables, n=3, cutoff=0.5)
    raise RefusedError(
        f"{found.manifest.id} holds {len(same) or 'no'} tables {table!r} in {found.entry.name!r}",
        detail=f"near: {', '.join(near)}" if near else f"it holds {some(tables)}",
        hint="write schema.table, without quotes",
    )


def _refuse_closed(connection: Connection, present: Present, way: Way) -> None:
    """Raise when a way is not open for a relation."""
    name = f"{present.schema_name}.{present.name}"
    if present.kind not in {"r", "p"}:
        raise RefusedError(f"{name} is no table any more", hint="recover the database beside")
    if not present.owned:
        raise UnfitError(f"{name} belongs to {present.owner}", hint="see recovery_connection in protocol.yaml")
    if way is Way.BESIDE:
        return
    if not present.may_replicate:
        raise UnfitError(
            "triggers cannot be kept from firing",
            hint="GRANT SET ON PARAMETER session_replication_role to the role of recovery_connection, or be superuser",
        )
    if way is Way.MERGE and not present.key:
        raise RefusedError(f"{name} has no primary key: nobody can tell which rows are missing")
    temporal = replace.temporal_references(connection, present)
    if temporal:
        raise RefusedError(f"foreign keys with PERIOD are not checked: {some(temporal)}", hint="recover it beside")
    if way is Way.IN_PLACE and present.is_partition:
        raise RefusedError(f"{name} is a partition", hint="recover its whole table in place, or merge")


@contextmanager
def _refuse_misfits(plan: TablePlan) -> Iterator[None]:
    """Say that rows or definitions of the backup don't go with what is there now; the transaction is rolled back."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise BusyError(f"{plan.name} stays locked by somebody else", detail=str(error).strip()) from None
    except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege):
        raise
    except psycopg.Error as error:
        raise RefusedError(
            f"{plan.schema_name}.{plan.name} of {plan.backup_id} does not fit what is there now: nothing was changed",
            detail=str(error).strip(),
            hint="recover the database beside, and take from it what you need",
        ) from None


def _leaves(found: Dump, tree: tuple[Entry, ...]) -> list[Table]:
    texts, roles = {entry.text for entry in tree}, found.manifest.roles
    return [
        one for one in found.entry.tables if one.kind == "r" and texts & table_texts(one.schema_name, one.name, roles)
    ]


def _rows(leaves: list[Table]) -> int | None:
    if not leaves or any(one.content is None for one in leaves):
        return None
    return sum(one.content.rows for one in leaves if one.content)


def _dotted(name: sql.Identifier) -> str:
    return name.as_string()

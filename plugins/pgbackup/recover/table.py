"""Recover one table: beside the present one, in its place under its OID, or only the rows that are missing.

The rows go from pg_restore straight into the server, into a table of ours beside; nothing else is restored anywhere.
The rows of a table that is there are replaced in one transaction, after a look at what would refer to nothing. A table
that is gone is made again by its own name, in one transaction too.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import psycopg
from psycopg import sql

from pgbackup.domain.errors import BusyError, RefusedError, UnfitError
from pgbackup.domain.findings import some
from pgbackup.domain.manifest import Content
from pgbackup.domain.ports import Site
from pgbackup.domain.target import Target
from pgbackup.postgres import describe, replace
from pgbackup.postgres.beside import MARK, stamped
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.postgres.replace import Present, Violation
from pgbackup.postgres.rows import RowSink
from pgbackup.postgres.toc import Archive, Entry, read_archive
from pgbackup.recover.again import make_again
from pgbackup.recover.dumps import content_of, fitting_programs, total
from pgbackup.recover.origin import Chosen, FromBackup, Origin, choose, find_table, opened
from pgbackup.recover.side import Name

log = logging.getLogger(__name__)


class Way(StrEnum):
    """What to do with the rows of a table that is still there."""

    BESIDE = "beside"
    IN_PLACE = "in place"
    MERGE = "merge"


@dataclass(frozen=True)
class TablePlan:
    """What a recovery will do. ``rows`` is what the backup holds, None where nobody counted: at a moment.

    A table that is not ``present`` is made again by its own name, whatever the way.
    """

    cluster: str
    database: str
    schema_name: str
    name: str
    way: Way
    present: bool
    origin: Origin
    rows: int | None


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
    target: Target | None = None,
    timeline: int | None = None,
    way: Way = Way.BESIDE,
    repository: str | None = None,
    even_rejected: bool = False,
) -> TablePlan:
    """Plan to recover a table (``schema.table``, no quotes) as it was at ``target``, at any moment that can be reached.

    Without one as a full backup has it, the newest verified one by default. Raises RefusedError when it cannot have
    been there, the moment is out of reach or the way is closed, UnfitError for a missing right; nothing is touched.
    """
    chosen = choose(
        site,
        cluster,
        database,
        backup_id,
        target,
        timeline=timeline,
        repository=repository,
        even_rejected=even_rejected,
    )
    with server_errors(cluster), connect(site.recovery_connections(cluster), database) as connection:
        there = [(one.schema_name, one.name) for one in describe.tables(connection)]
        schema, name = find_table(site, chosen, database, there, table)
        fitting_programs(site, connection, chosen.manifest)
        present = replace.look_up(connection, schema, name)
        if present is not None:
            refuse_closed(connection, present, way)
        else:
            _refuse_no_schema(connection, schema, table)
    return TablePlan(
        cluster=cluster,
        database=database,
        schema_name=schema,
        name=name,
        way=way,
        present=present is not None,
        origin=chosen.origin,
        rows=_counted(chosen, (schema, name)),
    )


def recover_table(site: Site, plan: TablePlan) -> RecoveredTable:
    """Carry a plan out. Whatever ends it early, present rows are as they were; a table beside may stay, marked as ours.

    Raises RefusedError, having changed nothing, when rows would refer to nothing, don't fit the table as it is now, are
    not as many as they were, or would replace those of a table that was gone when this was planned.
    """
    name = (plan.schema_name, plan.name)
    parameters = site.recovery_connections(plan.cluster)
    with (
        opened(site, plan.origin, plan.database, name) as dump,
        server_errors(plan.cluster),
        connect(parameters, plan.database) as connection,
    ):
        programs = fitting_programs(site, connection, dump.manifest)
        archive = read_archive(site.runner, programs, dump.path, dump.entry.encoding)
        tree = archive.tree(archive.table(*name, dump.manifest.roles))
        expected = content_of(dump, tree, major=describe.server(connection).version // 10000)
        present = replace.look_up(connection, *name)
        if present is not None and not plan.present and plan.way is not Way.BESIDE:
            raise RefusedError(
                f"{plan.schema_name}.{plan.name} is there, and was gone when this was planned: nothing was changed",
                hint="an interrupted try may have made it again: look at it, and plan anew",
            )
        if present is None:
            rows, notes = make_again(
                connection, archive, tree, expected.rows if expected else None, _refuse_misfits(plan)
            )
            recovered = RecoveredTable(plan, rows, None, None, rows, None, (), notes)
        else:
            recovered = TableRecovery(site, plan, connection, present).make(archive, tree, expected)
    return dataclasses.replace(recovered, notes=(*dump.notes, *recovered.notes))


@dataclass(frozen=True)
class TableRecovery:
    """One recovery under way, of a table that is there."""

    site: Site
    plan: TablePlan
    connection: Connection
    present: Present

    @property
    def mark(self) -> str:
        """The comment of a table that has the rows beside."""
        return f"{MARK}rows of {self.plan.schema_name}.{self.plan.name} in {self.plan.origin}"

    def make(self, archive: Archive, tree: tuple[Entry, ...], expected: Content | None) -> RecoveredTable:
        """Bring the rows beside, and into the table where the plan says so."""
        plan, present = self.plan, self.present
        refuse_closed(self.connection, present, plan.way)
        staged = self._free("restored")
        rows, columns, notes = self._stage(archive, tree, staged, expected)
        if plan.way is Way.BESIDE:
            lacking = replace.count(self.connection, staged, replace.missing(present)) if present.key else None
            found = replace.violations(self.connection, present, staged)
            return RecoveredTable(plan, rows, _dotted(staged), None, 0, lacking, found, notes)
        before, added = self.put(staged, columns)
        return RecoveredTable(plan, rows, None, before, added, None, (), notes)

    def _free(self, word: str) -> sql.Identifier:
        """Return a name beside the table's that nobody has."""
        moment = self.site.clock()
        schema, name = self.present.schema_name, stamped(self.present.name, word, moment)
        while replace.look_up(self.connection, schema, name) is not None:
            moment += timedelta(seconds=1)
            name = stamped(self.present.name, word, moment)
        return sql.Identifier(schema, name)

    def _stage(
        self, archive: Archive, tree: tuple[Entry, ...], staged: sql.Identifier, expected: Content | None
    ) -> tuple[int, list[str], tuple[str, ...]]:
        """Bring the rows into a table beside, at once; return how many, their columns and what to know of them."""
        plan, present = self.plan, self.present
        data = [entry for entry in archive.parts(tree) if entry.text.startswith("TABLE DATA ")]
        with _refuse_misfits(plan), self.connection.transaction():
            replace.stage(self.connection, present, staged, self.mark)
            with RowSink(self.connection, staged) as sink:
                if data:
                    archive.runner.pipe(archive.script(data, "--data-only"), sink=sink)
            self.connection.execute("SET client_encoding = 'UTF8'")
            newer = replace.forget_newer(self.connection, present, staged, sink.columns) if data else []
            rows = sink.rows
            if expected and expected.rows != rows:
                raise RefusedError(f"{rows} rows came, there were {expected.rows}", hint="recover from another copy")
        notes = [f"columns that are younger get their defaults: {some(newer)}"] if newer else []
        if expected and expected.hash:
            names = sorted({*present.columns, *present.generated}.difference(newer))
            if describe.fingerprint(self.connection, staged, names).hash != expected.hash:
                notes.append("values are not what they were: was a column's type or expression changed since?")
        columns = [column for column in present.columns if column not in newer]
        return rows, columns, tuple(notes)

    def put(self, staged: sql.Identifier, columns: list[str]) -> tuple[str | None, int]:
        """Put the staged rows into the table and drop the staged table, in one transaction.

        Returns the name of the table that has the old rows, of a merge None, and how many rows are new.
        """
        plan, present = self.plan, self.present
        only = replace.missing(present) if plan.way is Way.MERGE else None
        before = self._free("before")
        wait = self.site.settings.cluster(plan.cluster).full_backup.lock_timeout.total_seconds()
        with _refuse_misfits(plan), self.connection.transaction():
            replace.lock(self.connection, present, wait)
            self.refuse_violations(staged, only)
            if only is None:
                note = f"{MARK}rows of {plan.schema_name}.{plan.name} before the recovery from {plan.origin}"
                replace.set_aside(self.connection, present, before, note)
            added = replace.put(self.connection, present, staged, columns, only)
            self.connection.execute(sql.SQL("DROP TABLE {}").format(staged))
        self.connection.execute(sql.SQL("ANALYZE {}").format(present.identifier))
        return None if only else _dotted(before), added

    def refuse_violations(self, staged: sql.Identifier, only: sql.Composable | None) -> None:
        """Raise RefusedError when staged rows (``only`` those), put into the table, would refer to nothing."""
        found = replace.violations(self.connection, self.present, staged, only)
        if found:
            raise RefusedError(
                "rows would refer to nothing: nothing was changed",
                detail="\n".join(map(str, found)),
                hint=f"the rows are in {_dotted(staged)}; merge what is missing, or recover the other table, too",
            )


def _refuse_no_schema(connection: Connection, schema: str, table: str) -> None:
    """Raise when a table that is gone has no schema to be made again in."""
    found = connection.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if found is None:
        statement = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)).as_string()
        raise RefusedError(
            f"{table} is gone, and so is its schema",
            hint=f"{statement}, with its owner and grants; or recover the database beside",
        )


def refuse_closed(connection: Connection, present: Present, way: Way) -> None:
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
            f"{plan.schema_name}.{plan.name} of {plan.origin} does not fit what is there now: nothing was changed",
            detail=str(error).strip(),
            hint="recover the database beside, and take from it what you need",
        ) from None


def _counted(chosen: Chosen, name: Name) -> int | None:
    """Return how many rows a backup holds, where it says so: of a partitioned table it does not."""
    if chosen.entry is None or not isinstance(chosen.origin, FromBackup):
        return None
    content = total([one for one in chosen.entry.tables if (one.schema_name, one.name) == name and one.kind == "r"])
    return content.rows if content else None


def _dotted(name: sql.Identifier) -> str:
    return name.as_string()

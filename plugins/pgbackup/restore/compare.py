"""Compare restored databases with the manifest: one finding a question, the same whichever kind of backup it was."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import psycopg

from pgbackup.domain import findings as named
from pgbackup.domain.errors import PgBackupError, ProgramFailed, UnfitError
from pgbackup.domain.findings import Answer, some, timed
from pgbackup.domain.manifest import HASH_VERSION, Content, Database, Manifest, Table
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.ports import Runner
from pgbackup.domain.settings import Cluster, Query
from pgbackup.postgres import describe, dump
from pgbackup.postgres.connection import Connection, connect, program_access
from pgbackup.postgres.describe import TableSource
from pgbackup.postgres.programs import Programs

_QUERY_TRIES = 3
_BLOCK = re.compile(r"^(?=\S)", re.MULTILINE)  # pg_amcheck: a line that names the relation, indented ones that tell
_TAKE_ANOTHER = "take a new backup, and look at what happened to this one"

# What reading a table raises when its pages are not what a server wrote.
_CORRUPT = (psycopg.DataError, psycopg.InternalError, psycopg.errors.UndefinedFile)


@dataclass(frozen=True)
class Unreadable:
    """A table whose rows the restored server cannot read."""

    reason: str


class Comparison:
    """One restored server held against one manifest."""

    def __init__(
        self,
        manifest: Manifest,
        settings: Cluster,
        parameters: ConnectionParameters,
        violated: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._manifest = manifest
        self._settings = settings
        self._parameters = parameters
        self._violated = violated
        with connect(parameters) as connection:
            self._same_major = describe.server(connection).version // 10000 == manifest.server.version // 10000

    def findings(self) -> Iterator[Finding]:
        """Ask everything but the indexes, which a program checks beside it."""
        yield from self.of_a_dump()
        yield from self.of_a_server()

    def of_a_dump(self) -> Iterator[Finding]:
        """Ask what a dump restores into one database, on a server that has its own roles and pages."""
        yield from asked(
            {
                named.TABLES: self.tables,
                named.CONTENT: self.contents,
                named.LARGE_OBJECTS: self.large_objects,
                named.OBJECTS: self.objects,
                named.FOREIGN_KEYS: self.foreign_keys,
                named.SEQUENCES: self.sequences,
                named.EXTENSIONS: self.extensions,
                named.MATERIALIZED_VIEWS: self.materialized_views,
            }
        )

    def of_a_server(self) -> Iterator[Finding]:
        """Ask what belongs to no database, and the application."""
        checks = {named.ROLES: self.roles, named.CHECKSUMS: self.checksums, named.COLLATIONS: self.collations}
        yield from asked(checks)
        yield from self.of_the_application()

    def of_the_application(self) -> Iterator[Finding]:
        """Ask what is configured."""
        settings = self._settings.verify_backup
        yield from asked({named.APPLICATION: self.application} if settings.application_role else {})
        yield from asked({named.QUERIES: self.queries} if self._questions else {})

    def tables(self) -> Answer:
        """Every table of the source is there, and none that it did not have."""
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            wanted = {(table.schema_name, table.name) for table in entry.tables}
            restored = {(table.schema_name, table.name) for table in describe.tables(connection)}
            count += len(wanted)
            wrong += [f"{entry.name}: {_dotted(name)} is missing" for name in sorted(wanted - restored)]
            wrong += [f"{entry.name}: {_dotted(name)} is not the source's" for name in sorted(restored - wanted)]
        return not wrong, some(wrong) if wrong else f"{count} tables", _TAKE_ANOTHER

    def contents(self) -> Answer:
        """Row count and content hash of every table, read in parallel."""
        wrong: list[str] = []
        compared = rows = 0
        left_out: list[str] = []
        for entry in self._manifest.databases:
            restored = self._contents_of(entry)
            for table in entry.tables:
                name = f"{entry.name}: {_dotted((table.schema_name, table.name))}"
                if table.kind == "p":
                    continue  # a partitioned table's rows are its partitions'
                wanted = self._wanted(table)
                if wanted is None:
                    left_out.append(name)
                    continue
                found = restored.get((table.schema_name, table.name))
                compared += 1
                rows += wanted.rows
                wrong += [f"{name}: {difference}" for difference in self._differences(wanted, found)]
        detail = some(wrong) if wrong else f"{compared} tables, {rows} rows"
        if left_out:
            detail += f"; not compared by configuration: {some(left_out)}"
        if not self._hashes_compare:
            detail += "; rows counted only: another major version or fingerprint version"
        return not wrong, detail, _TAKE_ANOTHER

    def large_objects(self) -> Answer:
        """All large objects, by content."""
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            if entry.large_objects is None:
                continue
            count += entry.large_objects.rows
            found = describe.large_objects(connection)
            wrong += [f"{entry.name}: {text}" for text in self._differences(entry.large_objects, found)]
        return not wrong, some(wrong) if wrong else f"{count} large objects", _TAKE_ANOTHER

    def objects(self) -> Answer:
        """Every object of every class, with what is stored verbatim of its definition."""
        if not self._same_major:
            return True, "not compared: another major version", ""
        violated = {database for database, _ in self._violated}
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            restored = describe.objects(connection)
            for name in sorted(entry.objects.keys() | restored.keys()):
                if name in {"constraints", "triggers"} and entry.name in violated:
                    continue  # a foreign key that the source's own rows violate cannot be made again
                wanted, found = entry.objects.get(name), restored.get(name)
                count += wanted.count if wanted else 0
                if wanted != found:
                    counts = f"{wanted.count if wanted else 0} in the source, {found.count if found else 0} restored"
                    wrong.append(f"{entry.name}: {name} differ ({counts})")
        return not wrong, some(wrong) if wrong else f"{count} objects", _TAKE_ANOTHER

    def foreign_keys(self) -> Answer:
        """Every foreign key that the source vouched for was validated again by the restored server itself.

        One whose rows violate it, while all rows equal the source's, was violated in the source: the backup is true
        to it, and somebody has to repair the source.
        """
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            restored = {(key.schema_name, key.table, key.name): key for key in describe.foreign_keys(connection)}
            for key in entry.foreign_keys:
                count += 1
                found = restored.get((key.schema_name, key.table, key.name))
                if (entry.name, key.name) not in self._violated and (
                    found is None or (key.validated and not found.validated)
                ):
                    wrong.append(f"{entry.name}: {key.name} on {_dotted((key.schema_name, key.table))} does not hold")
        if wrong:
            return False, some(wrong), _TAKE_ANOTHER
        if self._violated:
            names = some(f"{database}: {name}" for database, name in sorted(self._violated))
            return True, f"{count} foreign keys; violated by the source's own rows: {names}", ""
        return True, f"{count} foreign keys", ""

    def indexes(self, runner: Runner, programs: Programs) -> Answer:
        """Each index is valid, complete against its table's rows, and each table's pages are sound (pg_amcheck).

        Raises UnfitError when something is not, and this machine sorts otherwise than the one that built the indexes.
        """
        invalid: list[str] = []
        collations: list[str] = []
        for entry, connection in self._databases():
            collations += [f"{entry.name}: {text}" for text in describe.other_collations(connection)]
            invalid += [f"{entry.name}: {name} is invalid" for name in describe.invalid_indexes(connection)]
        with program_access(self._parameters) as access:
            command = dump.check_indexes(programs, access, jobs=self._settings.verify_backup.jobs)
            try:
                report, _ = runner.run(command, ok=frozenset({0, 2}))  # 2: corruption found, and printed
            except ProgramFailed as error:
                raise UnfitError("pg_amcheck could not check the indexes", detail=error.detail) from None
        invalid += [" ".join(block.split()) for block in _BLOCK.split(report.decode(errors="replace")) if block.strip()]
        if invalid and collations:
            raise UnfitError(
                "the indexes cannot be judged here: collations have other versions than in the source",
                detail=f"{some(collations)}; found: {some(invalid)}",
                hint="verify where glibc and ICU are the source's; if these are: REINDEX the source",
            )
        return not invalid, some(invalid) if invalid else "pg_amcheck: no corruption", _TAKE_ANOTHER

    def sequences(self) -> Answer:
        """No sequence would hand out a value that the source had handed out before the snapshot."""
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            restored = {(one.schema_name, one.name): one for one in describe.sequences(connection)}
            for sequence in entry.sequences:
                count += 1
                found = restored.get((sequence.schema_name, sequence.name))
                value = found.last_value if found else None
                wanted = sequence.last_value
                behind = found is None or (
                    wanted is not None and (value is None or (value - wanted) * sequence.increment < 0)
                )
                if behind:
                    name = _dotted((sequence.schema_name, sequence.name))
                    wrong.append(f"{entry.name}: {name} is at {value}, the source was at {wanted}")
        return not wrong, some(wrong) if wrong else f"{count} sequences", _TAKE_ANOTHER

    def extensions(self) -> Answer:
        """Every extension is installed."""
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            restored = {extension.name for extension in describe.extensions(connection)}
            wrong += [f"{entry.name}: {one.name}" for one in entry.extensions if one.name not in restored]
            count += len(entry.extensions)
        return not wrong, some(wrong) if wrong else f"{count} extensions", _TAKE_ANOTHER

    def roles(self) -> Answer:
        """Every role exists."""
        with connect(self._parameters) as connection:
            restored, _ = describe.roles(connection)
        missing = sorted(set(self._manifest.roles) - set(restored))
        return not missing, some(missing) if missing else f"{len(self._manifest.roles)} roles", _TAKE_ANOTHER

    def materialized_views(self) -> Answer:
        """What was populated is populated; contents are the restore's own refresh, so they are not compared."""
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            restored = {(one.schema_name, one.name): one for one in describe.materialized_views(connection)}
            for view in entry.materialized_views:
                count += 1
                found = restored.get((view.schema_name, view.name))
                if found is None or (view.populated and not found.populated):
                    wrong.append(f"{entry.name}: {_dotted((view.schema_name, view.name))}")
        return not wrong, some(wrong) if wrong else f"{count} materialized views", _TAKE_ANOTHER

    def checksums(self) -> Answer:
        """Whether the source protects its own pages: a dump holds rows, not pages, so this only informs."""
        on = self._manifest.server.data_checksums
        return True, "on in the source" if on else "off in the source: enable them with pg_checksums", ""

    def collations(self) -> Answer:
        """The source's recorded and actual collation versions agree (else its text indexes may be wrong)."""
        wrong = [
            f"{entry.name}: recorded {entry.collation_version}, actual {entry.actual_collation_version}"
            for entry in self._manifest.databases
            if entry.collation_version != entry.actual_collation_version
        ]
        # A dump is independent of collation versions, its indexes are built anew: informs, never rejects.
        return True, f"the source's indexes need a REINDEX: {some(wrong)}" if wrong else "agree", ""

    def application(self) -> Answer:
        """The application's role connects to each database that it could connect to in the source.

        Which those are is in the databases' rights, and that they are the source's is a finding of its own.
        """
        role = self._settings.verify_backup.application_role or ""
        with connect(self._parameters) as connection:
            allowed = connection.execute(
                "SELECT d.datname FROM pg_catalog.pg_database AS d JOIN pg_catalog.pg_roles AS r ON r.rolname = %s"
                " WHERE pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')",
                (role,),
            ).fetchall()
        names = {query.database for query in self._questions} or {row[0] for row in allowed}
        if not allowed:
            return False, f"{role} may connect to no database", "look at the role's grants in globals.sql"
        for entry in self._manifest.databases:
            if entry.name not in names:
                continue
            refusal = self._try(role, entry.name, lambda connection: connection.execute("SELECT 1"))
            if refusal:
                return False, f"{role} in {entry.name}: {refusal}", "look at the role's grants in globals.sql"
        return True, role, ""

    def queries(self) -> Answer:
        """Each configured query answers in its time; the best of a few tries: a busy verifier must reject nothing."""
        slow: list[str] = []
        role = self._asking_role
        for query in self._questions:
            best = float("inf")
            for _ in range(_QUERY_TRIES):
                start = time.monotonic()
                refusal = self._try(role, query.database, partial(_ask, query))
                best = min(best, time.monotonic() - start)
                if refusal or best <= query.within.total_seconds():
                    break
            if refusal:
                return False, f"{query.sql[:80]}: {refusal}", "does the query still fit the schema?"
            if best > query.within.total_seconds():
                slow.append(f"{query.sql[:80]}: {best:.1f} s, allowed {query.within.total_seconds():.1f} s")
        count = len(self._questions)
        return (
            not slow,
            some(slow) if slow else f"{count} queries",
            "raise `within` if only this machine is slow",
        )

    @property
    def _questions(self) -> tuple[Query, ...]:
        """The application's queries that this backup has to answer."""
        return self._settings.verify_backup.queries

    @property
    def _asking_role(self) -> str | None:
        """The role that asks the application's queries; None for the superuser."""
        return self._settings.verify_backup.application_role

    def _wanted(self, table: Table) -> Content | None:
        """Return what a restored table must hold; None when it is not compared."""
        return table.content

    def _is_read(self, table: Table) -> bool:
        """Tell whether a table's rows are read: where the manifest has a fingerprint of them."""
        return table.content is not None

    @property
    def _hashes_compare(self) -> bool:
        return self._same_major and self._manifest.hash_version == HASH_VERSION

    def _differences(self, wanted: Content, found: Content | Unreadable | None) -> Iterator[str]:
        if found is None:
            yield "is missing"
        elif isinstance(found, Unreadable):
            yield f"cannot be read: {found.reason}"
        elif found.rows != wanted.rows:
            yield f"{found.rows} rows, the source had {wanted.rows}"
        elif self._hashes_compare and found.hash != wanted.hash:
            yield f"{found.rows} rows, but their content differs from the source's"

    def _databases(self) -> Iterator[tuple[Database, Connection]]:
        for entry in self._manifest.databases:
            with connect(self._parameters, entry.name) as connection:
                yield entry, connection

    def _contents_of(self, entry: Database) -> Mapping[tuple[str, str], Content | Unreadable]:
        """Fingerprint the restored tables that are read, largest first, in parallel."""
        wanted = {(table.schema_name, table.name) for table in entry.tables if self._is_read(table)}
        with connect(self._parameters, entry.name) as connection:
            tables = [one for one in describe.tables(connection) if (one.schema_name, one.name) in wanted]
        work: queue.SimpleQueue[TableSource] = queue.SimpleQueue()
        for table in sorted(tables, key=lambda one: one.bytes, reverse=True):
            work.put(table)
        contents: dict[tuple[str, str], Content | Unreadable] = {}
        errors: list[Exception] = []
        threads = [
            threading.Thread(target=self._read_contents, args=(entry.name, work, contents, errors), daemon=True)
            for _ in range(min(self._settings.verify_backup.jobs, len(tables)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return contents

    def _read_contents(
        self,
        database: str,
        work: queue.SimpleQueue[TableSource],
        contents: dict[tuple[str, str], Content | Unreadable],
        errors: list[Exception],
    ) -> None:
        try:
            with connect(self._parameters, database) as connection:
                while not errors:
                    try:
                        table = work.get_nowait()
                    except queue.Empty:
                        return
                    try:
                        found: Content | Unreadable = describe.content(connection, table)
                    except _CORRUPT as error:
                        found = Unreadable(str(error).strip())
                    contents[table.schema_name, table.name] = found
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
            errors.append(error)

    def _try(self, role: str | None, database: str, action: Callable[[psycopg.Connection], object]) -> str:
        """Do something as a role of the application; return what the server objects to."""
        parameters = self._parameters if role is None else self._parameters.replace(user=role)
        try:
            with connect(parameters, database, pinned=False) as connection:
                action(connection)
        except (PgBackupError, psycopg.Error) as error:
            return str(error).strip()
        return ""


def asked(checks: Mapping[str, named.Check]) -> Iterator[Finding]:
    """Run checks one after the other."""
    for name, check in checks.items():
        yield timed(name, check, clock=time.monotonic)


def _ask(query: Query, connection: psycopg.Connection) -> None:
    timeout = int(max(60.0, 10 * query.within.total_seconds()) * 1000)
    connection.execute("SELECT pg_catalog.set_config('statement_timeout', %s, false)", (str(timeout),))
    connection.execute(query.sql).fetchall()


def _dotted(name: tuple[str, str]) -> str:
    return ".".join(name)

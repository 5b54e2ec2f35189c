"""Recover a database beside the present one: restored, compared with its source, named when it is equal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pgbackup.domain.errors import ConfigurationError, ProgramFailed, RefusedError, UnfitError
from pgbackup.domain.findings import RESTORE, failures, some
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import Step
from pgbackup.domain.target import Target
from pgbackup.postgres import beside, dump
from pgbackup.postgres.beside import Leftover
from pgbackup.postgres.connection import Connection, connect, program_access, server_errors
from pgbackup.postgres.toc import Archive, read_archive
from pgbackup.recover.application import application_findings
from pgbackup.recover.dumps import PlainDump, fitting_programs
from pgbackup.recover.origin import Origin, choose, opened
from pgbackup.restore.adopted import comparison
from pgbackup.restore.isolated import Restored, judge_restore

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class DatabasePlan:
    """What a recovery will do. ``name`` is the new database's; ``leftovers`` are of earlier recoveries."""

    cluster: str
    database: str
    name: str
    origin: Origin
    database_bytes: int | None
    tables: int | None
    leftovers: tuple[Leftover, ...]


@dataclass(frozen=True)
class RecoveredDatabase:
    """A database that was made. ``name`` is the plan's if all findings hold, else the unfinished one's."""

    plan: DatabasePlan
    name: str
    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """It equals its source."""
        return all(finding.ok for finding in self.findings)


def plan_database(
    site: Site,
    cluster: str,
    database: str,
    backup_id: str | None = None,
    *,
    target: Target | None = None,
    timeline: int | None = None,
    name: str | None = None,
    repository: str | None = None,
    even_rejected: bool = False,
) -> DatabasePlan:
    """Plan to restore a database into the protected server as it was at ``target``, any moment that can be reached.

    Without one as a full backup has it, the newest verified one by default. Raises RefusedError when backup, moment or
    name cannot be had, UnfitError with what the server or the role of ``recovery_connection`` lacks, having touched
    nothing.
    """
    if name is not None and not ("\0" not in name and 0 < len(name.encode()) <= 63):
        raise ConfigurationError("a database's name has 1 to 63 bytes", detail=repr(name[:80]), hint="see --as")
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
    with server_errors(cluster), connect(site.recovery_connections(cluster)) as connection:
        fitting_programs(site, connection, chosen.manifest)
        wanted = name or beside.free_name(connection, database, "restored", site.clock())
        _refuse_taken(connection, wanted)
        if chosen.entry is None and not beside.exists(connection, database):
            raise RefusedError(
                f"neither {chosen.manifest.id} nor the server knows a database {database!r}",
                hint="`pgbackup recover cluster` brings back everything that was there",
            )
        if chosen.entry is not None:
            _refuse_missing(connection, chosen.entry, [chosen.entry.owner])
        leftovers = beside.leftovers(connection)
    return DatabasePlan(
        cluster=cluster,
        database=database,
        name=wanted,
        origin=chosen.origin,
        database_bytes=chosen.entry.bytes if chosen.entry else None,
        tables=len(chosen.entry.tables) if chosen.entry else None,
        leftovers=leftovers,
    )


def recover_database(site: Site, plan: DatabasePlan) -> RecoveredDatabase:
    """Carry a plan out: beside what is there, which is neither changed nor dropped.

    Until the end the new database is called ``restoring_…_at_…``; one that a killed recovery left is in the plan of the
    next, and is never dropped by us. Raises RefusedError when the dump cannot be restored.
    """
    parameters = site.recovery_connections(plan.cluster)
    with server_errors(plan.cluster), connect(parameters) as connection:
        _refuse_taken(connection, plan.name)
    with (
        opened(site, plan.origin, plan.database) as dump,
        server_errors(plan.cluster),
        connect(parameters) as connection,
    ):
        return _Recovery(site, plan, dump, parameters, connection, list(dump.steps)).make()


def _refuse_taken(connection: Connection, name: str) -> None:
    if beside.exists(connection, name):
        raise RefusedError(
            f"database {name!r} exists already", hint="choose another name with --as: nothing is dropped"
        )


def _refuse_missing(connection: Connection, entry: Database, owners: list[str]) -> None:
    lacking = beside.missing(connection, owners, [one.name for one in entry.extensions])
    if lacking:
        raise UnfitError(
            f"{entry.name!r} cannot be restored here as it is",
            detail="; ".join(lacking),
            hint="grant it, or let recovery_connection in protocol.yaml name a role that may: a superuser",
        )


@dataclass
class _Recovery:
    """One recovery under way."""

    site: Site
    plan: DatabasePlan
    dump: PlainDump
    parameters: ConnectionParameters
    connection: Connection
    steps: list[Step]

    def make(self) -> RecoveredDatabase:
        """Restore, give properties, compare, name."""
        plan, entry = self.plan, self.dump.entry
        _refuse_taken(self.connection, plan.name)
        programs = fitting_programs(self.site, self.connection, self.dump.manifest)
        unfinished = beside.unfinished_name(self.connection, plan.database, self.site.clock())
        archive = read_archive(self.site.runner, programs, self.dump.path, entry.encoding)
        _refuse_missing(self.connection, entry, [*archive.owners(self.dump.manifest.roles), entry.owner])
        header = beside.read_header(archive, unfinished)
        note = f"{plan.database!r} of {plan.origin} was being restored here; unless a recovery runs, drop it"
        beside.create(self.connection, header, unfinished, note)
        restored = self._step("restore", entry.bytes, lambda: self._restore(archive, unfinished))
        beside.give_properties(self.connection, header, unfinished)
        self._step("analyze", 0, lambda: self._analyze(unfinished))
        findings = (self._restored(restored), *self._step("compare", 0, lambda: self._compare(unfinished, restored)))
        if not all(finding.ok for finding in findings):
            note = f"{plan.database!r} of {plan.origin}, not equal to its source: {failures(findings)}"
            self.connection.execute(beside.comment_on(unfinished, beside.MARK + note))
            log.error("%s keeps its name: %s", unfinished, note)
            return RecoveredDatabase(plan, unfinished, findings, tuple(self.steps), self.dump.notes)
        beside.publish(self.connection, unfinished, plan.name)
        log.info("%s of %s is restored as %s", plan.database, plan.origin, plan.name)
        return RecoveredDatabase(plan, plan.name, findings, tuple(self.steps), self.dump.notes)

    def _restore(self, archive: Archive, name: str) -> Restored:
        jobs = self.site.settings.cluster(self.plan.cluster).verify_backup.jobs
        with program_access(self.parameters) as access:
            try:
                self.site.runner.run(dump.fill_database(archive.programs, access, archive.path, name, jobs=jobs))
            except ProgramFailed as error:
                return judge_restore(self.dump.manifest, self.plan.database, error)
        return Restored(self.plan.database, (), ())

    def _restored(self, restored: Restored) -> Finding:
        seconds = next(step.seconds for step in self.steps if step.name == "restore")
        detail = some(restored.errors) if restored.errors else f"{len(self.dump.entry.tables)} tables"
        return Finding(RESTORE, not restored.errors, seconds, detail, "`pgbackup recover old` lists what is unfinished")

    def _analyze(self, name: str) -> None:
        """Before anybody works in it: a cutover then needs no time for it."""
        with connect(self.parameters, name) as connection:
            connection.execute("ANALYZE")

    def _compare(self, name: str, restored: Restored) -> tuple[Finding, ...]:
        settings = self.site.settings.cluster(self.plan.cluster)
        violated = frozenset((name, key) for key in restored.violated_foreign_keys)
        compared = comparison(_only(self.dump, name), settings, self.parameters, violated)
        application = application_findings(
            settings.verify_backup, self.parameters, database=self.plan.database, actual=name
        )
        return (*compared.of_a_dump(), *application)

    def _step(self, name: str, count: int, do: Callable[[], _T]) -> _T:
        begun = time.monotonic()
        result = do()
        self.steps.append(Step(name, count, time.monotonic() - begun))
        log.info("%s: %.1f s", name, self.steps[-1].seconds)
        return result


def _only(found: PlainDump, name: str) -> Manifest:
    """Return the manifest as if the database alone had been captured, under its new name."""
    return found.manifest.model_copy(update={"databases": (found.entry.model_copy(update={"name": name}),)})

"""Cut over: a restored database takes the name of the present one, which is kept under another."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgbackup.domain.errors import RefusedError, UnfitError
from pgbackup.domain.findings import some
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.ports import Site
from pgbackup.postgres import beside, describe, swap
from pgbackup.postgres.beside import Leftover
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.recover.application import application_findings
from pgbackup.recover.switchable import old_directories

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CutoverPlan:
    """What a cutover will do: ``database`` becomes ``before``, ``restored`` becomes ``database``.

    ``before`` is None when there is no such database now; ``sessions`` will be ended; ``done`` says that an earlier run
    got as far as the renaming. ``collations`` need a REINDEX first.
    """

    cluster: str
    database: str
    restored: str
    before: str | None
    sessions: int
    collations: tuple[str, ...]
    notes: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class CutOver:
    """What was done. ``seconds`` is how long nobody could connect; ``findings`` are about the application."""

    plan: CutoverPlan
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """The application can work."""
        return all(finding.ok for finding in self.findings)


def plan_cutover(site: Site, cluster: str, database: str, restored: str) -> CutoverPlan:
    """Plan to put a restored database in the place of the present one; nothing is touched.

    Raises RefusedError when the restored one is not there, is unfinished, or something has to be decided first.
    """
    parameters = site.recovery_connections(cluster)
    with server_errors(cluster), _elsewhere(parameters, database) as connection:
        present = beside.exists(connection, database)
        earlier = _earlier(connection, database, restored)
        if present and earlier is not None and not beside.exists(connection, restored):
            return CutoverPlan(cluster, database, restored, earlier, 0, (), (), done=True)
        _refuse(connection, database, restored, present=present)
        names = [database, restored]
        sessions = connection.execute(
            "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = ANY (%s)", (names,)
        ).fetchone()
        slots = swap.followers(connection, database)
        closed = present and not swap.allows_connections(connection, database)
        before = beside.free_name(connection, database, "before", site.clock())
    with server_errors(cluster), connect(parameters, restored) as connection:
        collations = describe.other_collations(connection)
    return CutoverPlan(
        cluster=cluster,
        database=database,
        restored=restored,
        before=before if present else None,
        sessions=sessions[0] if sessions else 0,
        collations=collations,
        notes=(
            *_refusing(database, closed=closed),
            *(f"logical slot {slot} stays with the old database" for slot in slots),
        ),
        done=False,
    )


def cut_over(site: Site, plan: CutoverPlan, *, reindex: bool = False) -> CutOver:
    """Carry a plan out. Killed at any point, it can be planned and run again and ends right.

    Until the renaming, which is one transaction, an error lets the application in again. Raises RefusedError when
    indexes were built by another version of a collation and ``reindex`` does not say to build them anew.
    """
    parameters = site.recovery_connections(plan.cluster)
    begun = time.monotonic()
    if not plan.done:
        _reindex(plan, parameters, reindex=reindex)
        begun = time.monotonic()
        with server_errors(plan.cluster), _elsewhere(parameters, plan.database) as connection:
            _swap(connection, plan)
    seconds = time.monotonic() - begun
    log.info("%s is in the place of %s after %.1f s", plan.restored, plan.database, seconds)
    settings = site.settings.cluster(plan.cluster).verify_backup
    findings = application_findings(settings, parameters, database=plan.database, actual=plan.database)
    return CutOver(plan, seconds, tuple(findings))


def list_old(site: Site, cluster: str) -> tuple[tuple[str, Leftover], ...]:
    """List what recoveries made or set aside and nobody dropped: directories, databases, tables with their database."""
    parameters = site.recovery_connections(cluster)
    found = [("", one) for one in old_directories(site, cluster)]
    with server_errors(cluster):
        with connect(parameters) as connection:
            found += [("", one) for one in beside.leftovers(connection)]
            names = describe.databases(connection)
        for name in names:
            with connect(parameters, name) as connection:
                found += [(name, one) for one in beside.leftover_tables(connection)]
    return tuple(found)


def _elsewhere(parameters: ConnectionParameters, database: str) -> Connection:
    """Connect where a database can be renamed: not in itself."""
    return connect(parameters, "template1" if database == "postgres" else "postgres")


def _mark(database: str, restored: str) -> str:
    return f"{beside.MARK}{database!r} until {restored!r} took its place"


def _earlier(connection: Connection, database: str, restored: str) -> str | None:
    """Return the old database of an earlier run that got as far as the renaming."""
    mark = _mark(database, restored)
    return next((one.name for one in beside.leftovers(connection) if one.comment.startswith(mark)), None)


def _refusing(database: str, *, closed: bool) -> Iterator[str]:
    if closed:
        reopen = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(database)).as_string()
        yield f"{database} refuses connections, as an interrupted cutover leaves it; to give that up: {reopen}"


def _refuse(connection: Connection, database: str, restored: str, *, present: bool) -> None:
    if not beside.exists(connection, restored):
        raise RefusedError(f"there is no database {restored!r}", hint="`pgbackup recover database` makes it")
    if restored in {one.name for one in beside.leftovers(connection)} or restored == database:
        raise RefusedError(f"{restored!r} is unfinished, old, or the present database itself")
    undecided = [*(swap.obstacles(connection, database) if present else ()), *swap.obstacles(connection, restored)]
    if undecided:
        raise RefusedError(
            "a database with prepared transactions cannot be renamed",
            detail=some(undecided),
            hint="COMMIT PREPARED or ROLLBACK PREPARED them first",
        )


def _reindex(plan: CutoverPlan, parameters: ConnectionParameters, *, reindex: bool) -> None:
    if not plan.collations:
        return
    if not reindex:
        raise RefusedError(
            "indexes were built by another version of a collation: they may miss rows",
            detail=some(plan.collations),
            hint="repeat with --reindex",
        )
    with server_errors(plan.cluster), connect(parameters, plan.restored) as connection:
        name = sql.Identifier(plan.restored)
        connection.execute(sql.SQL("REINDEX DATABASE {}").format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} REFRESH COLLATION VERSION").format(name))


def _swap(connection: Connection, plan: CutoverPlan) -> None:
    present = plan.database if plan.before is not None else None
    if plan.before and beside.exists(connection, plan.before):
        raise UnfitError(f"database {plan.before!r} exists already", hint="plan the cutover again")
    comment = _mark(plan.database, plan.restored)
    kept = swap.comment_of(connection, plan.database)
    try:
        if present:
            swap.allow_connections(connection, present, allowed=False)
        swap.end_sessions(connection, [plan.database, plan.restored])
        swap.swap(
            connection,
            present,
            plan.restored,
            name=plan.database,
            before=plan.before or "",
            comment=f"{comment}\n{kept}" if kept else comment,
        )
    except BaseException:
        if present:
            with contextlib.suppress(psycopg.Error):  # no connection any more: planning again says how it stands
                swap.allow_connections(connection, present, allowed=True)
        raise

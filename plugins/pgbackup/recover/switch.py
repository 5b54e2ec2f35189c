"""Switch over: a recovered cluster takes the place of the present one, whose data directory is renamed and kept."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg import sql

from pgbackup.domain.errors import BusyError, PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.findings import some
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site
from pgbackup.postgres import describe, replication, standstill
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.recover import settle, switching
from pgbackup.recover.application import application_findings
from pgbackup.recover.control import Production, controlled
from pgbackup.recover.present import archive_present
from pgbackup.recover.switchable import survey_switch
from pgbackup.recover.switching import Switching, SwitchPlan
from pgbackup.scratch import held

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Switched:
    """What was done. ``unwritten`` and ``unreachable`` are for how many seconds nobody could write, and connect.

    ``findings`` are about the application; ``undo`` are the commands that take the switch back, losing what was
    written since.
    """

    plan: SwitchPlan
    unwritten: float
    unreachable: float
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    undo: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """The application can work."""
        return all(finding.ok for finding in self.findings)


def plan_switch(site: Site, cluster: str, folder: Path) -> SwitchPlan:
    """Plan to put a recovered cluster in the place of the present one; nothing is touched.

    After an interruption the plan is the one that was begun. Raises RefusedError when the folder is not a finished
    recovery of this cluster, or cannot take the place; ConfigurationError when `control` is not configured.
    """
    data = controlled(site, cluster).data_directory.resolve()
    folder = folder.absolute()
    begun = switching.read_switching(data)
    if begun is None:
        return survey_switch(site, cluster, folder, data)
    if (begun.plan.cluster, begun.plan.folder) != (cluster, folder):
        raise RefusedError(
            f"a switch of {begun.plan.cluster} to {begun.plan.folder} was begun and is not over",
            hint="repeat that one; it ends right, wherever it was interrupted",
        )
    return replace(begun.plan, begun=True)


def switch_over(site: Site, plan: SwitchPlan, *, reindex: bool = False) -> Switched:
    """Carry a plan out. Killed at any point, it can be planned and run again and ends right.

    Up to the renaming an error gives production back as it was. From there on the new server may only be read until all
    is well, and an error says how to go on and how to undo. Raises RefusedError when indexes were built by another
    version of a collation and ``reindex`` does not say to build them anew.
    """
    production = Production(site, plan.cluster, plan.data, plan.major)
    with held(plan.data.parent, BusyError(f"another process switches {plan.cluster}", hint="wait for it to end")):
        under_way = switching.read_switching(plan.data)
        if under_way is None:
            plan = _confirmed(site, plan, reindex=reindex)
            under_way = Switching(plan, site.clock(), site.clock())
            switching.keep(under_way)
        if plan.folder.exists():
            _replace(production, under_way)
        undo = tuple(_undo(production, plan))
        try:
            return _open(production, plan, undo, reindex=reindex)
        except PgBackupError as error:
            way_back = f"; to undo it: {'; '.join(undo)}" if undo else ""
            error.hint = f"{error.hint or 'see to it'}; then repeat the command, which goes on here{way_back}"
            raise


def _confirmed(site: Site, plan: SwitchPlan, *, reindex: bool) -> SwitchPlan:
    """Look again, because an approval takes its time; return the plan as it is now."""
    now = survey_switch(site, plan.cluster, plan.folder, plan.data)
    if (now.system_identifier, now.timeline) != (plan.system_identifier, plan.timeline):
        raise RefusedError(f"{plan.folder} is not what it was when this was planned", hint="plan it again")
    if now.collations and not reindex:
        raise _other_collations(now.collations)
    return replace(now, before=now.before and (plan.before or now.before))


def _replace(production: Production, under_way: Switching) -> None:
    """Bring the recovered directory to the place of the old one, with the old one's configuration, read only."""
    plan = under_way.plan
    renamed = switching.is_set_aside(plan)
    try:
        if not renamed:
            _drain(production)
            switching.keep(replace(under_way, unreachable=production.site.clock()))
            production.stop()
            if plan.before is not None:
                settle.let_write(plan.data)
            switching.set_aside(plan)
        settle.take_configuration(plan.folder, plan.before)
        switching.put_in_place(plan)
    except OSError as error:
        _give_back(production, plan)
        raise UnfitError(f"{plan.folder} cannot be put in place", detail=str(error), hint="see to it, repeat") from None
    except BaseException:
        _give_back(production, plan)
        raise
    log.info("%s is in the place of %s, which is %s now", plan.folder, plan.data, plan.before or "nowhere")


def _drain(production: Production) -> None:
    """Let nobody write any more and have all of it archived, as far as the server still answers."""
    site, cluster = production.site, production.cluster
    try:
        with production.connect() as connection:
            standstill.forbid_writes(connection)
            ended = standstill.end_clients(connection)
        log.info("%s is read only now, %d sessions were ended", cluster, ended)
        archive_present(site, cluster)
    except (PgBackupError, psycopg.Error) as error:
        log.warning("%s cannot be drained, and is stopped as it is: %s", cluster, error)


def _give_back(production: Production, plan: SwitchPlan) -> None:
    """Let production be as it was; what fails here is said, and the next run goes on where this one was."""
    if not plan.folder.exists():
        return  # renamed, whatever went wrong behind that
    try:
        switching.put_back(plan)
        if production.lives():
            with production.connect() as connection:
                standstill.allow_writes(connection)
        elif plan.before is not None:
            settle.let_write(plan.data)
            if plan.alive:
                production.start()
        settle.settle_again(plan.folder)
        switching.forget(plan)
    except (PgBackupError, psycopg.Error, OSError):
        start = shlex.join(production.command_to_start.argv)
        log.exception("%s is not as it was; to start it: %s", plan.cluster, start)


def _open(production: Production, plan: SwitchPlan, undo: tuple[str, ...], *, reindex: bool) -> Switched:
    """Start the server that has the place now, see that it is fit, and let the application write."""
    site, cluster = production.site, production.cluster
    production.start()
    reachable = site.clock()
    with server_errors(cluster), production.connect() as connection:
        _refuse_another(connection, plan)
        _make_slot(site, cluster, connection)
        names = describe.databases(connection)
        prepared = standstill.prepared(connection)
    for name in names:
        _see_to_collations(site, cluster, name, reindex=reindex)
    findings = ask_application(site, cluster, names)
    with server_errors(cluster), production.connect() as connection:
        standstill.allow_writes(connection)
    under_way = switching.read_switching(plan.data) or Switching(plan, reachable, reachable)
    switching.forget(plan)
    unwritten = (site.clock() - under_way.unwritten).total_seconds()
    unreachable = (reachable - under_way.unreachable).total_seconds()
    log.info("%s may be written to after %.1f s; nobody could connect for %.1f s", cluster, unwritten, unreachable)
    return Switched(plan, unwritten, unreachable, findings, (*plan.notes, *_notes(plan, prepared)), undo)


def ask_application(site: Site, cluster: str, databases: Iterable[str]) -> tuple[Finding, ...]:
    """Ask whether the application can work in each database of the server that has the place now."""
    settings, parameters = site.settings.cluster(cluster).verify_backup, site.recovery_connections(cluster)
    with server_errors(cluster):
        return tuple(
            replace(finding, name=f"{finding.name}: {name}")
            for name in databases
            for finding in application_findings(settings, parameters, database=name, actual=name)
        )


def _refuse_another(connection: Connection, plan: SwitchPlan) -> None:
    """Raise UnavailableError unless the server that answers is the recovered one."""
    found = replication.position(connection)
    if (found.system_identifier, found.timeline) != (plan.system_identifier, plan.timeline):
        raise UnavailableError(
            f"the server that answers is not the one that was put in {plan.data}",
            detail=f"system {found.system_identifier}, timeline {found.timeline} instead of {plan.timeline}",
            hint=f"see clusters.{plan.cluster}.control and recovery_connection",
        )


def _make_slot(site: Site, cluster: str, connection: Connection) -> None:
    """Make the receiver's slot while nobody writes, so that it has all that will be written."""
    wal = site.settings.cluster(cluster).wal
    if wal.method == "receiver" and replication.slot(connection, wal.slot) is None:
        log.info("slot %s keeps WAL from %s on", wal.slot, replication.create_slot(connection, wal.slot))


def _see_to_collations(site: Site, cluster: str, database: str, *, reindex: bool) -> None:
    with server_errors(cluster), connect(site.recovery_connections(cluster), database) as connection:
        other = describe.other_collations(connection)
        if other and not reindex:
            raise _other_collations(f"{database}: {one}" for one in other)
        if other:
            name = sql.Identifier(database)
            connection.execute("SET synchronous_commit = local")  # its standbys are not there yet
            connection.execute("SET lock_timeout = '1min'")  # a prepared transaction would never let go
            connection.execute(sql.SQL("REINDEX DATABASE {}").format(name))
            connection.execute(sql.SQL("ALTER DATABASE {} REFRESH COLLATION VERSION").format(name))


def _other_collations(differences: Iterator[str] | tuple[str, ...]) -> RefusedError:
    return RefusedError(
        "indexes were built by another version of a collation: they may miss rows",
        detail=some(differences),
        hint="say --reindex",
    )


def _notes(plan: SwitchPlan, prepared: tuple[str, ...]) -> Iterator[str]:
    yield f"the timeline is {plan.timeline} now: take a fresh base, `pgbackup backup base`"
    if plan.before is None:
        yield "the configuration is the backup's: see to archive_mode and synchronous_standby_names"
    for gid in prepared:
        yield f"prepared transaction {gid!r} waits for COMMIT PREPARED or ROLLBACK PREPARED"


def _undo(production: Production, plan: SwitchPlan) -> Iterator[str]:
    """Yield the commands that bring the old directory back."""
    if plan.before is None:
        return
    yield shlex.join(production.command_to_stop.argv)
    yield shlex.join(("mv", "-T", str(plan.data), str(plan.folder)))
    yield shlex.join(("mv", "-T", str(plan.before), str(plan.data)))
    yield shlex.join(("rm", "-f", str(switching.journal(plan.data))))
    yield shlex.join(production.command_to_start.argv)

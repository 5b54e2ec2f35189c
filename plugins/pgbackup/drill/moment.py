"""Point-in-time recovery: to a moment between two heartbeats, of which exactly the first one has to come back."""

from __future__ import annotations

from datetime import UTC, datetime

from pgbackup.domain import findings as named
from pgbackup.domain.drill import HEARTBEATS, REACHED, RPO, DrillStep, Moment, aim, choose_moment
from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.survey import Window, show, survey
from pgbackup.domain.target import AtTime
from pgbackup.drill.trial import Trial
from pgbackup.postgres import describe
from pgbackup.postgres.connection import connect, server_errors
from pgbackup.postgres.heartbeat import connect_to_heartbeat, heartbeats_near
from pgbackup.postgres.revalidate import check_foreign_keys
from pgbackup.recover.cluster import Recovery
from pgbackup.recover.planning import plan
from pgbackup.recover.replay import Replayed
from pgbackup.recover.side import private_place, spool_errors
from pgbackup.restore.compare import Comparison
from pgbackup.restore.measure import record
from pgbackup.restore.reach import read_holdings
from pgbackup.restore.received import receiver_status

_ABOUT = {"unpack, check, combine": named.MANIFEST_FILES, "replay": REACHED}
"""The step under way -> the finding that a refusal in it belongs to; any other brings files here."""


def recover_moment(trial: Trial) -> bool:
    """Choose a moment, recover to it, and look at what is there; True when it came to its end."""
    site = trial.site
    window = _window(trial)
    trial.about = HEARTBEATS
    moment = _choose(trial, window)
    trial.about = named.BYTES
    trial.subject = f"{trial.cluster} as of {show(moment.target)}"
    folder = site.spool / "drill" / f"{trial.cluster}_point_in_time"
    with spool_errors(), private_place(folder) as place:
        planned = plan(site, trial.cluster, AtTime(moment.target), timeline=None, repository=trial.repository)
        trial.subject += f", from {' + '.join((*planned.chain, *planned.bundles))}"
        place.take_up(planned)
        recovery = Recovery(site, planned, place)
        try:
            found = recovery.replayed()
        finally:
            _note_steps(trial, recovery)
        rates, size = trial.rates(), sum(database.bytes for database in recovery.last.databases)
        trial.ask(named.BYTES, lambda: _read(planned))
        trial.ask(REACHED, lambda: _reached(moment, planned, found))
        with trial.step("start and check", rates.start + size / rates.compare), recovery.server.running() as parameters:
            trial.findings += _look(trial, recovery, parameters, moment)
        record(site, trial.cluster, trial.repository, "compare", size, trial.steps[-1].seconds)
    return True


def _window(trial: Trial) -> Window:
    """Return what can be reached; the newest stretch where the WAL has gaps."""
    holdings = read_holdings(trial.site, trial.site.local, trial.cluster)
    return max(survey(holdings, None).windows.values(), key=lambda one: one.latest)


def _choose(trial: Trial, window: Window) -> Moment:
    """Choose the moment from the server's own heartbeats, and measure what would be lost if it were gone now."""
    site = trial.site
    with server_errors(trial.cluster), connect_to_heartbeat(site.connections(trial.cluster)) as connection:
        near, newest = heartbeats_near(connection, aim(window.earliest, window.latest))
    moment = choose_moment(near, window.earliest, window.latest)
    trial.rpo_seconds = max(((newest or site.clock()) - window.latest).total_seconds(), 0.0)
    trial.ask(RPO, lambda: _loss(trial, window.latest))
    return moment


def _loss(trial: Trial, latest: datetime) -> Answer:
    """From the newest commit that is archived to the newest heartbeat of the server: if all else were lost now."""
    allowed = trial.site.settings.objectives.rpo.total_seconds()
    seconds = trial.rpo_seconds or 0.0
    detail = f"{seconds:.1f} s of {allowed:.0f} s allowed: the archive holds all up to {show(latest.astimezone(UTC))}"
    told = receiver_status(trial.site.settings, trial.cluster)
    if told and told.received_at:
        detail += f"; the receiver's disk all up to {show(told.received_at)}"
    return seconds <= allowed, detail, "see `pgbackup watch`: why is the archive behind? archive_timeout bounds it"


def _note_steps(trial: Trial, recovery: Recovery) -> None:
    predicted = {step.name: step.seconds for step in recovery.plan.steps}
    for step in recovery.steps:
        trial.took(DrillStep(step.name, step.seconds, predicted.get(step.name, 0.0)))
    done = {step.name for step in recovery.steps}
    under_way = next((step.name for step in recovery.plan.steps if step.name not in done), "")
    trial.about = _ABOUT.get(under_way, named.BYTES)


def _read(planned: RecoveryPlan) -> Answer:
    count = sum(step.bytes for step in planned.steps if step.name in {"fetch and decrypt", "stage WAL"})
    return True, f"{' + '.join((*planned.chain, *planned.bundles))} and WAL, {count / 1e6:.1f} MB", ""


def _reached(moment: Moment, planned: RecoveryPlan, found: Replayed) -> Answer:
    """See where replay ended: behind the backup, and at no commit of later than the target."""
    late = found.last_commit is not None and found.last_commit > moment.target
    detail = f"{found.lsn}, last commit {show(found.last_commit.astimezone(UTC)) if found.last_commit else 'unknown'}"
    return found.lsn >= planned.consistent and not late, detail, "recover to the same moment by hand, and look"


def _look(trial: Trial, recovery: Recovery, parameters: ConnectionParameters, moment: Moment) -> list[Finding]:
    """Ask what can be asked of any moment: no fingerprints are known of this one."""
    site, settings = trial.site, trial.site.settings.cluster(trial.cluster)
    seen = Trial(site, trial.cluster)
    with connect(parameters) as connection:
        names = set(describe.databases(connection))
    here = tuple(entry for entry in recovery.last.databases if entry.name in names)
    comparison = Comparison(recovery.last.model_copy(update={"databases": here}), settings, parameters)
    seen.ask(named.TABLES, lambda: _tables(trial, recovery.last, parameters, names))
    seen.ask(named.FOREIGN_KEYS, lambda: _references(parameters, names))
    seen.ask(HEARTBEATS, lambda: _heartbeats(parameters, moment))
    seen.ask(named.INDEXES, lambda: comparison.indexes(site.runner, recovery.server.programs))
    if settings.verify_backup.application_role:
        seen.ask(named.APPLICATION, comparison.application)
    if settings.verify_backup.queries:
        seen.ask(named.QUERIES, comparison.queries)
    return seen.findings


def _tables(trial: Trial, before: Manifest, parameters: ConnectionParameters, names: set[str]) -> Answer:
    """Every table of the backup before the moment is there, but for those that the server itself has no more."""
    wanted = {(entry.name, table.schema_name, table.name) for entry in before.databases for table in entry.tables}
    missing = wanted - _tables_of(parameters, names)
    if missing:
        try:
            source = trial.site.connections(trial.cluster)
            with connect(source) as connection:
                known = set(describe.databases(connection))
            missing &= _tables_of(source, known & {database for database, _, _ in missing})
        except PgBackupError as error:
            return False, f"{some(map('.'.join, sorted(missing)))}; dropped since? {error.message}", "look, and repeat"
    found = f"{len(wanted)} tables of {before.id}, but for those dropped since"
    return not missing, some(map(".".join, sorted(missing))) if missing else found, "look at the server's log"


def _tables_of(parameters: ConnectionParameters, databases: set[str]) -> set[tuple[str, str, str]]:
    found: set[tuple[str, str, str]] = set()
    for database in databases:
        with connect(parameters, database) as connection:
            found |= {(database, table.schema_name, table.name) for table in describe.tables(connection)}
    return found


def _references(parameters: ConnectionParameters, databases: set[str]) -> Answer:
    count, broken = 0, []
    for database in sorted(databases):
        with connect(parameters, database) as connection:
            keys, violated = check_foreign_keys(connection)
        count += keys
        broken += [f"{database}: {one}" for one in violated]
    return not broken, some(broken) if broken else f"{count} foreign keys, checked row by row", "is the source whole?"


def _heartbeats(parameters: ConnectionParameters, moment: Moment) -> Answer:
    with connect_to_heartbeat(parameters) as connection:
        there, later = connection.execute(
            "SELECT coalesce(bool_or(moment = %s), false), coalesce(bool_or(moment > %s), false)"
            " FROM pgbackup.heartbeat",
            (moment.before, moment.before),
        ).fetchone() or (False, False)
    detail = (
        f"{show(moment.before.astimezone(UTC))} is {'there' if there else 'MISSING'},"
        f" {show(moment.after.astimezone(UTC))} is {'THERE, or another later one' if later else 'not'}"
    )
    return there and not later, detail, "recover to the same moment by hand, and compare the rows around it"

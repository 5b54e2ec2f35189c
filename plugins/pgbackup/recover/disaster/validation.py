"""Validation of a recovered cluster, on a server of its own port: what the application needs, what the rows say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from psycopg import sql

from pgbackup.domain import findings as named
from pgbackup.domain.errors import PgBackupError, UnavailableError
from pgbackup.domain.findings import Answer, merged, some
from pgbackup.domain.incident import Incident
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import VerifyBackup
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection, connect
from pgbackup.postgres.replace import dangling
from pgbackup.recover.application import application_findings
from pgbackup.recover.cluster import Recovered, last_manifest, recovered_server
from pgbackup.recover.control import works_in
from pgbackup.recover.incident import Told, judged
from pgbackup.recover.markdown import span
from pgbackup.recover.settle import start

ANSWERS, READABLE, LOSS, TIME = (
    "the recovered server answers",
    "every table can be read",
    "the loss is within the objective",
    "the time so far is within the objective",
)
_PATIENT = timedelta(minutes=5)
"""What a query may take where only its answer is asked for: nothing is in memory yet."""


def check_connectivity(site: Site, cluster: str, recovered: Recovered, port: int) -> Told:
    """Start a server on the recovered directory, unless it runs, and see that the application's role may connect."""
    if not works_in(recovered.folder):
        start(site, recovered_server(site, last_manifest(site, recovered.plan), recovered), recovered.folder, port)
    answers = judged(ANSWERS, lambda: (True, str(_version(site, cluster, recovered, port)), ""))
    findings = [answers]
    if answers.ok:
        settings = site.settings.cluster(cluster).verify_backup
        asked = settings.model_copy(update={"queries": ()})
        names = _databases_of(settings)
        anywhere = tuple(entry.name for entry in last_manifest(site, recovered.plan).databases)
        found = [_of_application(site, cluster, recovered, port, asked, [name]) for name in names or anywhere]
        # Where nobody says in which database the application works, one that it may connect to is enough.
        findings += merged(found if names else [one for one in found if all(each.ok for each in one)] or found)
    return Told(f"127.0.0.1:{port}, or the socket in {recovered.folder}", tuple(findings))


def _databases_of(settings: VerifyBackup) -> tuple[str, ...]:
    """Return where the application works, as far as its queries say."""
    return tuple(sorted({query.database for query in settings.queries}))


def check_functions(site: Site, cluster: str, recovered: Recovered, port: int) -> Told:
    """Ask the configured queries for their answers; how long they take is a question of its own."""
    settings = site.settings.cluster(cluster).verify_backup
    patient = [query.model_copy(update={"within": max(query.within, _PATIENT)}) for query in settings.queries]
    asked = settings.model_copy(update={"queries": tuple(patient)})
    return _queries(site, cluster, recovered, port, asked)


def check_performance(site: Site, cluster: str, recovered: Recovered, port: int, incident: Incident) -> Told:
    """Ask the same queries for their time, and whether the recovery is within its own."""
    told = _queries(site, cluster, recovered, port, site.settings.cluster(cluster).verify_backup)
    elapsed, allowed = site.clock() - incident.since, site.settings.objectives.rto

    def in_time() -> Answer:
        return elapsed <= allowed, f"{span(elapsed)} of {span(allowed)}", "go on: what is late is worth more soon"

    return dataclasses.replace(told, findings=(*told.findings, judged(TIME, in_time)))


def _queries(site: Site, cluster: str, recovered: Recovered, port: int, settings: VerifyBackup) -> Told:
    if not settings.queries:
        return Told("no queries are configured (verify_backup.queries): try the application by hand")
    found = _of_application(site, cluster, recovered, port, settings, _databases_of(settings))
    queries = tuple(finding for finding in found if finding.name == named.QUERIES)
    return Told(f"{len(settings.queries)} queries of the application", queries)


def check_data(site: Site, cluster: str, recovered: Recovered, port: int, incident: Incident) -> Told:
    """Read every table that the backup counted, check every foreign key's rows, indexes, collations, and the loss.

    What was dropped since the backup is told, and no fault: the target is younger.
    """
    manifest = last_manifest(site, recovered.plan)
    parameters = reach(site, cluster, recovered, port)
    loss, allowed = incident.rpo, site.settings.objectives.rpo

    def within() -> Answer:
        if loss is None:
            return False, "nobody knows: no transaction was replayed", "compare with what the application knows"
        return loss <= allowed, f"{span(loss)} of {span(allowed)}", "look for newer WAL in the other repositories"

    findings = (
        judged(READABLE, lambda: _readable(manifest, parameters)),
        judged(named.FOREIGN_KEYS, lambda: _all(manifest, parameters, _dangling)),
        judged(named.INDEXES, lambda: _all(manifest, parameters, describe.invalid_indexes)),
        judged(named.COLLATIONS, lambda: _all(manifest, parameters, describe.other_collations)),
        judged(LOSS, within),
    )
    return Told(f"{len(manifest.databases)} databases of {manifest.id} and what came after it", findings)


def reach(site: Site, cluster: str, recovered: Recovered, port: int) -> ConnectionParameters:
    """Return how the recovered server is reached by the roles and passwords of the source.

    On loopback, else by the socket in its folder. Raises UnavailableError with what both say.
    """
    parameters = site.recovery_connections(cluster)
    keywords = {name: value for name, value in parameters.keywords.items() if name != "hostaddr"}
    refusals: list[str] = []
    for host in ("127.0.0.1", str(recovered.folder)):
        candidate = ConnectionParameters({**keywords, "host": host, "port": str(port)}, parameters.password)
        try:
            connect(candidate).close()
        except PgBackupError as error:
            refusals.append(str(error.detail or error.message))
        else:
            return candidate
    raise UnavailableError(
        f"the recovered server on port {port} lets us in neither way",
        detail="; ".join(refusals),
        hint=f"look at {recovered.folder}/recovered.log and its pg_hba.conf",
    )


def _version(site: Site, cluster: str, recovered: Recovered, port: int) -> str:
    with connect(reach(site, cluster, recovered, port)) as connection:
        row = connection.execute("SELECT pg_catalog.version()").fetchone()
    return str(row[0]) if row else ""


def _of_application(
    site: Site, cluster: str, recovered: Recovered, port: int, settings: VerifyBackup, databases: Iterable[str]
) -> tuple[Finding, ...]:
    parameters = reach(site, cluster, recovered, port)
    return merged(application_findings(settings, parameters, database=name, actual=name) for name in databases)


def _present(manifest: Manifest, parameters: ConnectionParameters) -> Iterator[tuple[Database, Connection]]:
    with connect(parameters) as connection:
        names = set(describe.databases(connection))
    for entry in manifest.databases:
        if entry.name in names:
            with connect(parameters, entry.name) as connection:
                yield entry, connection


def _readable(manifest: Manifest, parameters: ConnectionParameters) -> Answer:
    tables = rows = before = 0
    gone = {(entry.name, "", "") for entry in manifest.databases}
    for entry, connection in _present(manifest, parameters):
        gone.discard((entry.name, "", ""))
        here = {(table.schema_name, table.name): table for table in describe.tables(connection)}
        for table in entry.tables:
            found = here.get((table.schema_name, table.name))
            if found is None:
                gone.add((entry.name, table.schema_name, table.name))
            elif table.content is not None and found.kind == "r":
                row = connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(found.identifier)).fetchone()
                tables, rows, before = tables + 1, rows + (row[0] if row else 0), before + table.content.rows
    dropped = some(".".join(filter(None, name)) for name in sorted(gone))
    since = f"; dropped since the backup: {dropped}" if gone else ""
    return True, f"{tables} tables, {rows} rows; the backup had {before}{since}", ""


def _all(manifest: Manifest, parameters: ConnectionParameters, ask: Callable[[Connection], tuple[str, ...]]) -> Answer:
    """Collect what is wrong in any database."""
    wrong = [
        f"{entry.name}: {text}" for entry, connection in _present(manifest, parameters) for text in ask(connection)
    ]
    return not wrong, some(wrong) if wrong else "in all databases", "repair it before the application works"


def _dangling(connection: Connection) -> tuple[str, ...]:
    return tuple(map(str, dangling(connection)))

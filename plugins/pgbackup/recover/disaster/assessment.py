"""Assessment: what is left, how far it reaches, whether it can be used. Nothing is touched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

from pgbackup.domain.errors import PgBackupError, RefusedError
from pgbackup.domain.findings import Answer, advice, some
from pgbackup.domain.ids import BackupId
from pgbackup.domain.incident import Fact
from pgbackup.domain.model import Finding, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.survey import survey
from pgbackup.domain.wal import Segment
from pgbackup.postgres.connection import connect, server_errors
from pgbackup.postgres.replication import position
from pgbackup.recover.ahead import Foresight
from pgbackup.recover.incident import Told, judged
from pgbackup.recover.markdown import moment, span
from pgbackup.restore.archive import list_archive, read_sidecar
from pgbackup.restore.fetch import describe_copy, open_passphrase
from pgbackup.restore.fitness import refuse_unfit
from pgbackup.restore.isolated import server_for
from pgbackup.restore.reach import read_holdings

log = logging.getLogger(__name__)

FILES, WAL, KEYS, MACHINE = (
    "every file of the chain is there",
    "every WAL segment is there",
    "our keys open them",
    "programs and extensions are here",
)


def assess_scope(site: Site, cluster: str, since: datetime) -> Told:
    """Say what answers: server, catalog, each repository; and what would be lost at best, seen from ``since``."""
    reaches: list[datetime] = []
    lines = [f"server: {_said(lambda: _server(site, cluster))}", f"catalog: {_said(lambda: _catalog(site, cluster))}"]
    for name, store in site.repositories.items():
        lines.append(f"repository {name}: {_said(partial(_repository, site, store, cluster, reaches))}")
    lost = span(max(since - max(reaches), since - since)) if reaches else "everything that no dump holds"
    return Told("; ".join([*lines, f"lost at best: {lost}"]))


def _said(ask: Callable[[], str]) -> str:
    """Return an answer, or why there is none: nothing that is gone is an error here."""
    try:
        return ask()
    except PgBackupError as error:
        return ": ".join(filter(None, (error.message, " ".join((error.detail or "").split()))))


def _server(site: Site, cluster: str) -> str:
    with server_errors(cluster), connect(site.connections(cluster)) as connection:
        now = position(connection)
    return f"answers, timeline {now.timeline} at {now.flush}"


def _catalog(site: Site, cluster: str) -> str:
    backups = site.catalog.backups(cluster)
    return f"answers, knows {len(backups)} backups" if backups else "answers, and is empty"


def _repository(site: Site, store: Store, cluster: str, reaches: list[datetime]) -> str:
    found = survey(read_holdings(site, store, cluster), None)
    latest = max(window.latest for window in found.windows.values())
    reaches.append(latest)
    links = found.holdings.links
    proved = sum(link.verdict is Verdict.VERIFIED for link in links)
    newest = max(links, key=lambda link: link.moment)
    return (
        f"{len(links)} physical backups, {proved} verified there, the newest {newest.id}"
        f" ({newest.verdict or 'no verdict'}); recoverable up to {moment(latest)}"
    )


def verify_availability(site: Site, ahead: Foresight) -> Told:
    """See that everything that a plan needs is there and can be opened.

    Raises RefusedError, with all that is not, before anybody is asked to approve the plan.
    """
    plan = ahead.plan
    store = site.repositories[plan.repository]
    findings = tuple(_availability(site, plan, store))
    if not all(finding.ok for finding in findings):
        raise RefusedError(f"what the plan needs is not available in {store.name}", detail=advice(findings))
    return Told(f"{len(plan.chain) + len(plan.bundles)} backups and their WAL in {store.name} can be used", findings)


def _availability(site: Site, plan: RecoveryPlan, store: Store) -> Iterator[Finding]:
    names = (*plan.chain, *plan.bundles)
    jobs = site.settings.cluster(plan.cluster).verify_backup.jobs
    yield judged(FILES, lambda: _files_are_there(site, store, names))
    yield judged(WAL, lambda: _wal_is_there(store, plan, jobs))
    yield judged(KEYS, lambda: _keys_open(site, store, names))
    yield judged(MACHINE, lambda: _machine_is_fit(site, store, plan))


def _files_are_there(site: Site, store: Store, names: tuple[str, ...]) -> Answer:
    wrong: list[str] = []
    total = 0
    for name in names:
        description = describe_copy(site, store, BackupId.parse(name))
        here = {info.key: info.bytes for info in store.list(description.backup_id.key(""))}
        for file in description.manifest.files:
            if here.get(description.backup_id.key(file.name)) != file.stored_bytes:
                wrong.append(f"{name}/{file.name}")
            total += file.stored_bytes
    detail = some(wrong) if wrong else f"{total / 1e6:.1f} MB, as long as they were"
    return not wrong, detail, "use another repository, or an earlier moment"


def _wal_is_there(store: Store, plan: RecoveryPlan, jobs: int) -> Answer:
    listing = list_archive(store, plan.cluster, plan.system_identifier)
    sizes = {info.key: info.bytes for info in store.list(f"wal/{plan.cluster}/{plan.system_identifier}/")}

    def lacks(segment: Segment) -> bool:
        archived = listing.segments.get(segment)
        sealed = read_sidecar(store, archived) if archived else None
        return sealed is None or sizes.get(sealed.data_key) != sealed.stored_bytes

    size = plan.segment_size
    wanted = [
        Segment(one.timeline, number, size)
        for one in plan.archived
        for number in range(one.start.position // size, one.end.position // size)
    ]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        missing = [
            segment.name for segment, is_missing in zip(wanted, pool.map(lacks, wanted), strict=True) if is_missing
        ]
    detail = some(missing) if missing else f"{len(wanted)} segments, as long as they were"
    return not missing, detail, "use another repository, or an earlier moment"


def _keys_open(site: Site, store: Store, names: tuple[str, ...]) -> Answer:
    encrypted = 0
    for name in names:
        description = describe_copy(site, store, BackupId.parse(name))
        encrypted += bool(open_passphrase(site, store, description))
    return True, f"{encrypted} of {len(names)} backups are encrypted", ""


def _machine_is_fit(site: Site, store: Store, plan: RecoveryPlan) -> Answer:
    last = describe_copy(site, store, BackupId.parse(plan.chain[-1])).manifest
    programs = server_for(site, last, site.spool).programs
    refuse_unfit(last, programs, site.runner)
    return True, f"PostgreSQL {last.server.version // 10000} in {programs.folder}", ""


def plan_facts(ahead: Foresight) -> dict[Fact, str]:
    """Return what a plan promises, for the report."""
    return {
        Fact.TARGET: str(ahead.plan.target),
        Fact.REPOSITORY: ahead.plan.repository,
        Fact.NEWEST_KNOWN: ahead.newest.isoformat(),
        Fact.PREDICTED: f"{ahead.plan.seconds:.1f}",
    }

"""One look at everything that recovery depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pgbackup.domain.findings import Answer
from pgbackup.domain.metrics import Sample
from pgbackup.domain.model import Backup, Finding, Kind
from pgbackup.domain.ports import Site
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.heartbeat import connect_to_heartbeat
from pgbackup.restore.received import receiver_status
from pgbackup.watch import archiver, names, receiver
from pgbackup.watch.archive import ArchiveState, conflicts, continuity, observe_archive
from pgbackup.watch.archiver import Archiving, observe_archiving
from pgbackup.watch.backups import USABLE, drilled, recent, start_of_recovery
from pgbackup.watch.copies import backups_are_there, wal_is_there
from pgbackup.watch.judge import judged
from pgbackup.watch.keys import keys_last
from pgbackup.watch.metrics import measured, observed
from pgbackup.watch.receiver import Streaming, observe_streaming
from pgbackup.watch.trends import changes_are_told, has_space, in_time, mails_go_out, not_rejected, usual_sizes

Checks = Iterator[tuple[str, Callable[[], Answer]]]
T = TypeVar("T")


@dataclass(frozen=True)
class Watching:
    """What one look found, and what it measured."""

    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]


def watch(site: Site, cluster: str) -> tuple[Finding, ...]:
    """Return the findings of one look; see examine."""
    return examine(site, cluster).findings


def examine(site: Site, cluster: str) -> Watching:
    """Judge a cluster's archive, its source and its backups, and measure them; never raises for what a check finds.

    What cannot be looked at is a finding itself, and does not keep the rest from being judged.
    """
    findings: list[Finding] = []
    server = _seen(findings, names.SERVER, lambda: _server(site, cluster))
    backups = _seen(findings, names.CATALOG, lambda: site.catalog.backups(cluster))
    archive = _seen(findings, names.ARCHIVE, lambda: _archive(site, cluster, server, backups or ()))
    numbers = observed(site, server, archive)
    before = site.settings.encryption.warn_before
    findings.append(judged(names.KEYS, lambda: keys_last(site.keyring.expiries(), site.clock(), before)))
    findings.extend(judged(name, check) for name, check in _wal_checks(site, cluster, server, archive, numbers))
    if backups is not None:
        findings.extend(judged(name, check) for name, check in _backup_checks(site, cluster, backups))
    return Watching(tuple(findings), measured(site, cluster, numbers, backups, findings))


def _server(site: Site, cluster: str) -> Streaming | Archiving:
    wal = site.settings.cluster(cluster).wal
    with connect_to_heartbeat(site.connections(cluster)) as connection:
        return observe_streaming(connection, wal.slot) if wal.method == "receiver" else observe_archiving(connection)


def _archive(site: Site, cluster: str, server: Streaming | Archiving | None, backups: Sequence[Backup]) -> ArchiveState:
    position = server.position if server else None
    usable = [one for one in backups if one.state in USABLE]
    base = start_of_recovery(site, usable, position.system_identifier if position else None)
    known = position.system_identifier if position else base.server.system_identifier if base else None
    return observe_archive(
        site,
        cluster,
        system=known,
        size=position.segment_size if position else None,
        base=base,
    )


def _wal_checks(
    site: Site,
    cluster: str,
    server: Streaming | Archiving | None,
    archive: ArchiveState | None,
    numbers: dict[str, float],
) -> Checks:
    """What is judged of the WAL, by name; what is measured on the way is put into ``numbers``."""
    wal, rpo = site.settings.cluster(cluster).wal, site.settings.objectives.rpo

    def told(metric: str, late: timedelta | None) -> timedelta | None:
        if late is not None:
            numbers[metric] = late.total_seconds()
        return late

    if archive:
        yield names.CONTINUITY, partial(continuity, archive, cluster)
        yield names.CONFLICTS, partial(conflicts, archive, cluster)
    if isinstance(server, Streaming):
        status = receiver_status(site.settings, cluster)
        yield names.SLOT, partial(receiver.slot_is_whole, server, archive, wal, cluster)
        yield names.RECEIVER, partial(receiver.receiver_is_alive, server, status, wal)
        yield names.RETAINED, partial(receiver.retained, server, wal)
        if archive:

            def lag(connection: Connection) -> Answer:
                late = receiver.waited(server, archive, connection)
                told("pgbackup_wal_lag_seconds", late or timedelta(0))
                return receiver.lag(server, archive, status, late, wal)

            def loss(connection: Connection) -> Answer:
                late = told("pgbackup_rpo_seconds", receiver.exposed(server, archive, connection))
                return receiver.loss(server, archive, late, rpo)

            yield names.LAG, partial(_asking, site, cluster, lag)
            yield names.RPO, partial(_asking, site, cluster, loss)
    if isinstance(server, Archiving):
        told("pgbackup_wal_lag_seconds", server.late)
        late = told("pgbackup_rpo_seconds", archiver.exposed(server))
        yield names.ARCHIVER, partial(archiver.archiver_works, server, archive)
        yield names.RETAINED, partial(archiver.retained, server, wal)
        yield names.LAG, partial(archiver.lag, server, wal)
        yield names.RPO, partial(archiver.loss, late, rpo)


def _backup_checks(site: Site, cluster: str, backups: Sequence[Backup]) -> Checks:
    """What is judged of the backups, their copies and drills, and of the way that alerts go."""
    settings, now = site.settings.cluster(cluster), site.clock()
    usable = [one for one in backups if one.state in USABLE]
    kinds = (Kind.FULL, Kind.BASE) if settings.full_backup.base else (Kind.FULL,)
    yield names.BACKUP, partial(recent, usable, kinds, now, cluster)
    yield names.VERDICT, partial(not_rejected, backups, cluster)
    yield names.SIZE, partial(usual_sizes, backups, settings.sizes, cluster)
    yield names.DURATION, partial(in_time, backups, settings, now, cluster)
    yield names.SPACE, lambda: has_space(backups, site.local.free_bytes())
    yield names.DRILL, partial(drilled, site, cluster)
    yield names.MAIL, lambda: mails_go_out(site.catalog.unsent(), site.settings.clusters, cluster)
    yield names.TOLD, lambda: changes_are_told(site.catalog.watched(cluster), site.settings, now)
    for repository in sorted(site.repositories.keys() - {site.local.name}):
        given = (repository, settings.copies, now, cluster)
        yield names.wal_in(repository), partial(wal_is_there, site.catalog, *given)
        yield names.backups_in(repository), partial(backups_are_there, usable, *given)


def _asking(site: Site, cluster: str, check: Callable[[Connection], Answer]) -> Answer:
    with connect_to_heartbeat(site.connections(cluster)) as connection:
        return check(connection)


def _seen(findings: list[Finding], name: str, observe: Callable[[], T]) -> T | None:
    """Observe a part; that it can be observed is a finding. None when it cannot."""
    seen: list[T] = []

    def check() -> Answer:
        seen.append(observe())
        return True, "", ""

    findings.append(judged(name, check))
    return seen[0] if seen else None

"""One look at everything that recovery depends on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.findings import Answer, timed
from pgbackup.domain.model import Backup, Finding, Kind
from pgbackup.domain.ports import Site
from pgbackup.postgres.connection import Connection, server_errors
from pgbackup.postgres.heartbeat import connect_to_heartbeat
from pgbackup.restore.received import receiver_status
from pgbackup.watch import archiver, names, receiver
from pgbackup.watch.archive import ArchiveState, conflicts, continuity, observe_archive
from pgbackup.watch.archiver import Archiving, observe_archiving
from pgbackup.watch.backups import USABLE, drilled, recent, start_of_recovery
from pgbackup.watch.copies import backups_are_there, wal_is_there
from pgbackup.watch.keys import keys_last
from pgbackup.watch.receiver import Streaming, observe_streaming

log = logging.getLogger(__name__)

Checks = Iterator[tuple[str, Callable[[], Answer]]]
T = TypeVar("T")


def watch(site: Site, cluster: str) -> tuple[Finding, ...]:
    """Judge a cluster's archive, its source and its backups; never raises for what a check finds.

    What cannot be looked at is a finding itself, and does not keep the rest from being judged.
    """
    findings: list[Finding] = []
    server = _seen(findings, names.SERVER, lambda: _server(site, cluster))
    backups = _seen(findings, names.CATALOG, lambda: site.catalog.backups(cluster, states=USABLE))
    archive = _seen(findings, names.ARCHIVE, lambda: _archive(site, cluster, server, backups or ()))
    findings.extend(_judge(name, check) for name, check in _checks(site, cluster, server, backups, archive))
    return tuple(findings)


def _server(site: Site, cluster: str) -> Streaming | Archiving:
    wal = site.settings.cluster(cluster).wal
    with connect_to_heartbeat(site.connections(cluster)) as connection:
        return observe_streaming(connection, wal.slot) if wal.method == "receiver" else observe_archiving(connection)


def _archive(site: Site, cluster: str, server: Streaming | Archiving | None, backups: Sequence[Backup]) -> ArchiveState:
    position = server.position if server else None
    base = start_of_recovery(site, backups, position.system_identifier if position else None)
    known = position.system_identifier if position else base.server.system_identifier if base else None
    return observe_archive(
        site,
        cluster,
        system=known,
        size=position.segment_size if position else None,
        base=base,
    )


def _checks(
    site: Site,
    cluster: str,
    server: Streaming | Archiving | None,
    backups: Sequence[Backup] | None,
    archive: ArchiveState | None,
) -> Checks:
    settings, rpo = site.settings.cluster(cluster), site.settings.objectives.rpo
    wal = settings.wal
    warn_before = site.settings.encryption.warn_before
    yield names.KEYS, lambda: keys_last(site.keyring.expiries(), site.clock(), warn_before)
    if archive:
        yield names.CONTINUITY, partial(continuity, archive, cluster)
        yield names.CONFLICTS, partial(conflicts, archive, cluster)
    if isinstance(server, Streaming):
        told = receiver_status(site.settings, cluster)
        yield names.SLOT, partial(receiver.slot_is_whole, server, archive, wal, cluster)
        yield names.RECEIVER, partial(receiver.receiver_is_alive, server, told, wal)
        yield names.RETAINED, partial(receiver.retained, server, wal)
        if archive:
            ask = partial(_asking, site, cluster)
            yield names.LAG, lambda: ask(lambda connection: receiver.lag(server, archive, told, connection, wal))
            yield names.RPO, lambda: ask(lambda connection: receiver.loss(server, archive, connection, rpo))
    if isinstance(server, Archiving):
        yield names.ARCHIVER, partial(archiver.archiver_works, server, archive)
        yield names.RETAINED, partial(archiver.retained, server, wal)
        yield names.LAG, partial(archiver.lag, server, wal)
        yield names.RPO, partial(archiver.loss, server, rpo)
    if backups is not None:
        kinds = (Kind.FULL, Kind.BASE) if settings.full_backup.base else (Kind.FULL,)
        yield names.BACKUP, partial(recent, backups, kinds, site.clock(), cluster)
        yield names.DRILL, partial(drilled, site, cluster)
        for repository in sorted(site.repositories.keys() - {site.local.name}):
            given = (repository, settings.copies, site.clock(), cluster)
            yield names.wal_in(repository), partial(wal_is_there, site.catalog, *given)
            yield names.backups_in(repository), partial(backups_are_there, backups, *given)


def _asking(site: Site, cluster: str, check: Callable[[Connection], Answer]) -> Answer:
    with connect_to_heartbeat(site.connections(cluster)) as connection:
        return check(connection)


def _seen(findings: list[Finding], name: str, observe: Callable[[], T]) -> T | None:
    """Observe a part; that it can be observed is a finding. None when it cannot."""
    seen: list[T] = []

    def check() -> Answer:
        seen.append(observe())
        return True, "", ""

    findings.append(_judge(name, check))
    return seen[0] if seen else None


def _judge(name: str, check: Callable[[], Answer]) -> Finding:
    def answer() -> Answer:
        try:
            with server_errors("the server"):
                return check()
        except PgBackupError as error:
            return False, ": ".join(filter(None, (error.message, error.detail))), error.hint or ""

    finding = timed(name, answer, clock=time.monotonic)
    if not finding.ok:
        log.info("%s: FAILED %s", finding.name, finding.detail)
    return finding

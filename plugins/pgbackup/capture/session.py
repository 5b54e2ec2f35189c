"""The life of a capture: hold the cluster, settle what killed runs left, record it, leave nothing after an error."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.manifest import Manifest, parse_manifest
from pgbackup.domain.model import Kind, State
from pgbackup.domain.ports import Site
from pgbackup.postgres.connection import server_errors

log = logging.getLogger(__name__)


class Capture:
    """One backup that is being captured; ``manifest`` is set by the capture once it is committed."""

    def __init__(self, backup_id: BackupId, started_at: datetime) -> None:
        self.id = backup_id
        self.started_at = started_at
        self.manifest: Manifest | None = None


@contextlib.contextmanager
def holding(site: Site, cluster: str) -> Iterator[Site]:
    """Hold the cluster for a capture, after settling what killed runs left; its programs run as ``load`` says."""
    with site.catalog.exclusive(cluster, purpose="backup"):
        sweep(site, cluster)
        yield replace(site, runner=site.runner.lowered(site.settings.cluster(cluster).load))


@contextlib.contextmanager
def capturing(site: Site, cluster: str, kind: Kind) -> Iterator[Capture]:
    """Record a capture's start and its end; after any error nothing is left that looks like a backup."""
    started = site.clock()
    capture = Capture(_new_id(site, cluster, kind, started), started)
    site.catalog.begin(str(capture.id), cluster=cluster, kind=kind, owner=site.owner, now=started)
    log.info("backup %s starts", capture.id)
    try:
        with server_errors(cluster):
            yield capture
    except BaseException as error:
        _abandon(site, capture.id, error)
        raise
    if capture.manifest is not None:
        site.catalog.captured(capture.manifest, repository=site.local.name, now=site.clock())
        _tell(capture.manifest)


def refuse(site: Site, cluster: str, reason: str) -> None:
    """Record that a run could not even start, once a run, so that list and mail can say why."""
    with contextlib.suppress(PgBackupError):
        if any(backup.error for backup in site.catalog.backups_of(site.owner)):
            return
        now = site.clock()
        backup_id = str(_new_id(site, cluster, Kind.FULL, now))
        site.catalog.begin(backup_id, cluster=cluster, kind=Kind.FULL, owner=site.owner, now=now)
        site.catalog.failed(backup_id, error=reason, now=now)


def sweep(site: Site, cluster: str) -> None:
    """Settle what killed runs of this cluster left: a committed backup is recorded, everything else removed.

    Only to be called while the cluster is held, so that no run that it meets is alive.
    """
    running = {backup.id for backup in site.catalog.backups(cluster, states=frozenset({State.RUNNING}))}
    committed: dict[str, bool] = {}
    for kind in Kind:
        for found in site.local.list(f"{kind.value}/{cluster}_"):
            name = found.key.split("/")[1]
            committed[name] = committed.get(name, False) or found.key.endswith(f"/{SUMS}")
    for name in sorted(running | committed.keys()):
        try:
            backup_id = BackupId.parse(name)
        except ConfigurationError:
            continue  # not ours: somebody's folder
        if backup_id.cluster == cluster:
            _settle(site, backup_id, running=name in running, committed=committed.get(name, False))
    for left in site.spool.glob(f"{cluster}_*"):
        with contextlib.suppress(ConfigurationError):
            if BackupId.parse(left.name).cluster == cluster:
                shutil.rmtree(left, ignore_errors=True)


def _settle(site: Site, backup_id: BackupId, *, running: bool, committed: bool) -> None:
    if committed and running:
        text = site.local.read(backup_id.key(MANIFEST))
        manifest = parse_manifest(text, source=str(backup_id))
        site.catalog.captured(manifest, repository=site.local.name, now=site.clock())
        log.warning("backup %s was complete when its run was killed: recorded", backup_id)
    elif not committed:
        site.local.clean(backup_id.directory)
        if running:
            site.catalog.failed(str(backup_id), error="the run was killed", now=site.clock())
        log.warning("removed what a killed run left of %s", backup_id)


def _new_id(site: Site, cluster: str, kind: Kind, moment: datetime) -> BackupId:
    while True:
        backup_id = BackupId.at(cluster, moment, kind)
        if site.catalog.backup(str(backup_id)) is None and not any(site.local.list(backup_id.key(""))):
            return backup_id
        moment += timedelta(seconds=1)  # ids are unique within a second


def _abandon(site: Site, backup_id: BackupId, error: BaseException) -> None:
    """Leave nothing half-published; whatever fails here must not hide the first error."""
    log.error("backup %s failed: %s", backup_id, error)
    with contextlib.suppress(PgBackupError):
        site.local.clean(backup_id.directory)
    shutil.rmtree(site.spool / str(backup_id), ignore_errors=True)
    with contextlib.suppress(PgBackupError):
        site.catalog.failed(str(backup_id), error=str(error) or type(error).__name__, now=site.clock())


def _tell(manifest: Manifest) -> None:
    seconds = max((manifest.finished_at - manifest.started_at).total_seconds(), 0.001)
    log.info(
        "backup %s captured: %d bytes stored in %.1f s, databases of %d bytes (%.1f MB/s)",
        manifest.id,
        manifest.stored_bytes,
        seconds,
        sum(database.bytes for database in manifest.databases),
        sum(database.bytes for database in manifest.databases) / 1e6 / seconds,
    )

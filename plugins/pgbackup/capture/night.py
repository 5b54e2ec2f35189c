"""The night: a base backup, then the dump at the snapshots that prove it; one set of fingerprints serves both."""

from __future__ import annotations

import logging

from pgbackup.capture.full import capture_full, dump_moments, take_full
from pgbackup.capture.physical import physical_capture
from pgbackup.capture.session import capturing, holding
from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Kind
from pgbackup.domain.ports import Site

log = logging.getLogger(__name__)


def capture_night(site: Site, cluster: str) -> tuple[Manifest, ...]:
    """Take the full backup of a cluster and, where configured, the base backup that the same snapshots prove.

    Both are durable in the local repository and in the catalog then. A base that fails does not cost the dump: the
    full backup is taken all the same, and the base's error raised afterwards.
    """
    if not site.settings.cluster(cluster).full_backup.base:
        return (capture_full(site, cluster),)
    with holding(site, cluster) as held:
        taken: list[Manifest] = []
        try:
            base = _take_both(held, cluster, taken)
        except PgBackupError:
            if not taken:
                log.exception("the base backup of %s failed; the dump is taken without it", cluster)
                take_full(held, cluster)
            raise
    return taken[0], base


def _take_both(site: Site, cluster: str, taken: list[Manifest]) -> Manifest:
    with physical_capture(site, cluster, Kind.BASE) as base:
        wal = base.take_files(parent=None)
        with base.marked(wal) as marked:
            base.keep_wal()
            with capturing(site, cluster, Kind.FULL) as full:
                full.manifest = dump_moments(site, base.source, full, marked.moments)
            taken.append(full.manifest)
        manifest = base.manifest(wal, marked, full.manifest.databases)
        base.commit(manifest)
    return manifest

"""Sealed WAL, oldest first: data in parallel, the sidecars that make them count in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from hashlib import sha256

from pgbackup.copy.objects import copy_object, is_there
from pgbackup.domain.errors import PgBackupError, RefusedError
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Sealed, parse_sealed, sealed_files

log = logging.getLogger(__name__)


def copy_wal(site: Site, cluster: str, repository: str) -> int:
    """Bring the sealed segments and histories that a repository lacks there; return how many.

    The catalog hears up to when everything is there, also when it fails half-way. A file that is damaged here does not
    keep the others from being copied; its error is raised at the end.
    """
    target = site.repositories[repository]
    began = site.clock()
    missing: list[ObjectInfo] = []
    done, refused = 0, list[tuple[ObjectInfo, RefusedError]]()
    try:
        missing = _missing(site.local, target, cluster)
        for info, error in _copy(site, cluster, target, missing):
            if error:
                log.error("%s is not copied to %s: %s", info.key, repository, error)
                refused.append((info, error))
            done += 1
        if refused:
            raise refused[0][1]
    except PgBackupError as error:
        left = [info for info, _ in refused] + missing[done:]
        whole = min((info.modified for info in left), default=None)
        site.catalog.wal_copied(
            cluster, repository, whole_at=_before(whole), missing=len(left), error=str(error), now=site.clock()
        )
        raise
    site.catalog.wal_copied(cluster, repository, whole_at=began, missing=0, error="", now=site.clock())
    if done:
        log.info("%d WAL files copied to %s", done, repository)
    return done


def _missing(local: Store, target: Store, cluster: str) -> list[ObjectInfo]:
    """Return the sidecars that only the local repository has, in the order of systems, timelines and names."""
    held = {info.key for info in _sidecars(target, cluster)}
    return sorted((info for info in _sidecars(local, cluster) if info.key not in held), key=lambda info: info.key)


def _sidecars(store: Store, cluster: str) -> Iterator[ObjectInfo]:
    return (info for info in store.list(f"wal/{cluster}/") if any(sealed_files([info.key])))


def _copy(
    site: Site, cluster: str, target: Store, missing: list[ObjectInfo]
) -> Iterator[tuple[ObjectInfo, RefusedError | None]]:
    """Copy; yield each file that is done, or the reason why it cannot be."""

    def data(info: ObjectInfo) -> Sealed | RefusedError:
        try:
            return _copy_data(site.local, target, info)
        except RefusedError as error:
            return error

    pool = ThreadPoolExecutor(max_workers=site.settings.cluster(cluster).wal.jobs)
    try:
        for info, sealed in zip(missing, pool.map(data, missing), strict=True):
            if isinstance(sealed, Sealed):
                text = site.local.read(info.key)
                copy_object(site.local, target, info.key, sha256(text).hexdigest(), progress=lambda _count: None)
                yield info, None
            else:
                yield info, sealed
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _copy_data(local: Store, target: Store, info: ObjectInfo) -> Sealed:
    """Copy the bytes that a sidecar describes; others under their key, of a killed copy, are replaced."""
    sealed = parse_sealed(local.read(info.key), source=info.key)
    if any(target.list(sealed.data_key)):
        if is_there(local, target, sealed.data_key):
            return sealed
        target.delete(sealed.data_key)
    copy_object(local, target, sealed.data_key, sealed.stored_sha256, progress=lambda _count: None)
    return sealed


def _before(moment: datetime | None) -> datetime | None:
    return moment - timedelta(microseconds=1) if moment else None

"""Sealed WAL, oldest first: data in parallel, the sidecars that make them count in order."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from pgbackup.copy.objects import check_object, copy_object, is_there
from pgbackup.domain.errors import PgBackupError, RefusedError
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Sealed, parse_sealed, sealed_files
from pgbackup.restore.listing import absent

log = logging.getLogger(__name__)

_LATER = timedelta(hours=1)
"""How much later than its time a file may appear: it is written before it is seen, and clocks differ."""


def copy_wal(site: Site, cluster: str, repository: str) -> int:
    """Bring the sealed segments and histories that a repository lacks there; return how many.

    The catalog hears up to when everything is there, also when it fails half-way. A file that is damaged here does not
    keep the others from being copied; its error is raised at the end. The first call of a day (UTC) compares all that
    both hold; the others begin where the repository was whole.
    """
    target = site.repositories[repository]
    began = site.clock()
    missing: list[ObjectInfo] = []
    done, refused = 0, list[tuple[ObjectInfo, RefusedError]]()
    try:
        missing = _missing(site.local, target, cluster, since=_whole(site, cluster, repository, began))
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


def _whole(site: Site, cluster: str, repository: str, now: datetime) -> datetime | None:
    """Return the moment before which all that was sealed is there, None when nobody looked today."""
    found = next((one.whole_at for one in site.catalog.wal_copies(cluster) if one.repository == repository), None)
    return found - _LATER if found and found.astimezone(UTC).date() == now.astimezone(UTC).date() else None


def _missing(local: Store, target: Store, cluster: str, *, since: datetime | None) -> list[ObjectInfo]:
    """Return the sidecars of what only the local repository has whole, in the order of systems, timelines and names.

    The target is listed from the first file that is younger than ``since``, and not at all when there is none.
    """
    sealed = (info for info in _sealed(local, cluster) if since is None or info.modified > since)
    first = list(itertools.islice(sealed, 1))
    if since and not first:
        return []
    held = target.list(f"wal/{cluster}/", after=_stem(first[0].key) if since else "")
    missing: dict[str, ObjectInfo] = {}
    for info in absent(itertools.chain(first, sealed), held):
        key = f"{_stem(info.key)}.json"
        missing.setdefault(key, ObjectInfo(key, info.bytes, info.modified))
    return list(missing.values())


def _sealed(store: Store, cluster: str) -> Iterator[ObjectInfo]:
    """List sealed files: each one's sidecar, then its data."""
    stem = ""
    for info in store.list(f"wal/{cluster}/"):
        if any(sealed_files([info.key])):
            stem = _stem(info.key)
        if stem and _stem(info.key) == stem:
            yield info


def _stem(key: str) -> str:
    """Return what the keys of a file's data and sidecar have in common."""
    name, _, digest = key.rpartition("-")
    return f"{name}-{digest.split('.')[0]}"


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
                copy_object(site.local, target, info.key, sha256(site.local.read(info.key)).hexdigest())
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
        check_object(local, sealed.data_key, sealed.stored_sha256)
        target.delete(sealed.data_key)
    copy_object(local, target, sealed.data_key, sealed.stored_sha256)
    return sealed


def _before(moment: datetime | None) -> datetime | None:
    return moment - timedelta(microseconds=1) if moment else None

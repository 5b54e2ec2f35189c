"""Fill the catalog from what a repository holds: manifests, the verdicts beside them, drills."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256

from pgbackup.domain.attestation import unseal
from pgbackup.domain.drill import DRILLS, Drill, unseal_drill
from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.manifest import Manifest, parse_manifest
from pgbackup.domain.model import CopyState, Kind, Verification
from pgbackup.domain.ports import Catalog, Store
from pgbackup.domain.sums import parse_sums

log = logging.getLogger(__name__)


def rebuild(catalog: Catalog, store: Store, *, now: datetime) -> tuple[str, ...]:
    """Record every committed backup and every drill of a repository; return the backups' ids.

    What the catalog knows already stays.
    """
    registered: list[str] = []
    for backup_id in committed(store):
        try:
            manifest = _manifest(store, backup_id)
        except RefusedError as error:
            log.warning("%s is not recorded: %s", backup_id, error)
            continue
        catalog.register(
            manifest,
            repository=store.name,
            copy=CopyState.STORED,
            verifications=tuple(attested(store, backup_id)),
            now=now,
        )
        registered.append(str(backup_id))
    for drill in drilled(store):
        catalog.drilled(drill)
    return tuple(registered)


def drilled(store: Store) -> Iterator[Drill]:
    """Read the drills of a repository; a damaged one is told and does not count."""
    for found in store.list(DRILLS):
        try:
            yield unseal_drill(found.key, store.read(found.key))
        except RefusedError as error:
            log.warning("%s", error)


def committed(store: Store) -> Iterator[BackupId]:
    """List the backups of a repository: the directories that hold SHA256SUMS, oldest first."""
    for kind in Kind:
        for found in store.list(f"{kind.value}/"):
            directory, _, name = found.key.rpartition("/")
            if name != SUMS:
                continue
            try:
                backup_id = BackupId.parse(directory.removeprefix(f"{kind.value}/"))
            except ConfigurationError:
                log.warning("%s is no backup of ours", directory)
                continue
            yield backup_id


def attested(store: Store, backup_id: BackupId) -> Iterator[Verification]:
    """Read the verdicts beside a backup; a damaged one is told and does not count."""
    for found in store.list(backup_id.key("attest/verdict-")):
        try:
            yield unseal(found.key, store.read(found.key)).verification()
        except RefusedError as error:
            log.warning("%s", error)


def _manifest(store: Store, backup_id: BackupId) -> Manifest:
    digests = parse_sums(store.read(backup_id.key(SUMS)), source=f"{backup_id}/{SUMS}")
    text = store.read(backup_id.key(MANIFEST))
    if sha256(text).hexdigest() != digests.get(MANIFEST):
        raise RefusedError(f"{backup_id}/{MANIFEST} does not match its checksum")
    return parse_manifest(text, source=f"{backup_id}/{MANIFEST}")

"""Fill the catalog from what a repository holds: manifests, the verdicts beside them, drills."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from pgbackup.domain.attestation import unseal
from pgbackup.domain.drill import DRILLS, Drill, unseal_drill
from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.model import CopyState, Kind, Verification
from pgbackup.domain.ports import Site, Store
from pgbackup.restore.fetch import describe_copy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rebuilt:
    """``recorded``: the backups' ids. ``refused``: one error each of what a verification would not take either."""

    recorded: tuple[str, ...]
    refused: tuple[RefusedError, ...]


def rebuild(site: Site, store: Store) -> Rebuilt:
    """Record every drill of a repository, and every committed backup that is whole, and signed where that is asked for.

    What the catalog knows already stays. Raises UnfitError when the keys that sign backups cannot be read.
    """
    recorded: list[str] = []
    refused: list[RefusedError] = []
    for backup_id in committed(store):
        try:
            manifest = describe_copy(site, store, backup_id).manifest
        except RefusedError as error:
            reason = ": ".join(filter(None, (error.message, error.detail)))
            refused.append(RefusedError(f"{backup_id} is not recorded", detail=reason, hint=error.hint))
            continue
        site.catalog.register(
            manifest,
            repository=store.name,
            copy=CopyState.STORED,
            verifications=tuple(attested(store, backup_id)),
            now=site.clock(),
        )
        recorded.append(str(backup_id))
    for drill in drilled(store):
        site.catalog.drilled(drill)
    return Rebuilt(tuple(recorded), tuple(refused))


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

"""Backups, object by object: data, then the manifest, then SHA256SUMS, which makes the copy one."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from hashlib import sha256

from pgbackup.copy.objects import copy_object, is_there
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.model import Backup, CopyState, State
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.sums import format_sums
from pgbackup.restore.fetch import Description, describe_copy

log = logging.getLogger(__name__)

_KEPT = frozenset({State.CAPTURED, State.VERIFIED})
_THERE = frozenset({CopyState.STORED, CopyState.VERIFIED})


@dataclass(frozen=True)
class Copied:
    """A backup that is in a repository now; ``bytes`` are those that had to be sent, in ``seconds``."""

    backup_id: str
    repository: str
    bytes: int
    seconds: float


def missing_copies(site: Site, cluster: str, repository: str) -> tuple[Backup, ...]:
    """Return the backups that a repository lacks, or holds damaged; oldest first, so parents before children."""
    found = reversed(site.catalog.backups(cluster, states=_KEPT))
    return tuple(backup for backup in found if not _THERE & {_state(backup, repository)})


def copy_missing(site: Site, cluster: str, repository: str) -> tuple[Copied, ...]:
    """Copy every backup that a repository lacks.

    One that cannot be read here doesn't keep the others from being copied; its error is raised at the end. A
    repository that does not answer ends it at once: what is done stays done.
    """
    copied: list[Copied] = []
    refused: list[RefusedError] = []
    for backup in missing_copies(site, cluster, repository):
        try:
            copied.append(copy_backup(site, backup.id, repository))
        except RefusedError as error:
            log.error("%s is not copied to %s: %s", backup.id, repository, error)  # noqa: TRY400 - raised below
            refused.append(error)
    if refused:
        raise refused[0]
    return tuple(copied)


def copy_backup(site: Site, backup_id: str, repository: str) -> Copied:
    """Bring one backup from the local repository to another; what is there already is compared and stays.

    Raises RefusedError when the local one is missing or damaged, UnavailableError when the repository does not answer:
    then the copy is none, and the next call goes on with it.
    """
    started = time.monotonic()
    description = describe_copy(site.local, BackupId.parse(backup_id))
    target = site.repositories[repository]
    found = {copy.repository: copy.state for copy in site.catalog.copies(backup_id)}
    if found.get(repository) is CopyState.DAMAGED:  # the checksum that a storage keeps would not show it
        target.clean(description.backup_id.directory)
    there = _sound(site.local, target, description)
    sent = sum(
        copy_object(
            site.local,
            target,
            description.backup_id.key(name),
            digest,
            progress=lambda count, name=name: site.progress(f"{name} to {repository}", count),  # type: ignore[misc]
        )
        for name, digest in _in_order(description)
        if name not in there and name != SUMS
    )
    if SUMS not in there:
        _complete(target, description)
        key = description.backup_id.key(SUMS)
        sent += copy_object(site.local, target, key, _in_order(description)[-1][1], progress=lambda _count: None)
    site.catalog.copied(backup_id, repository=repository, now=site.clock())
    seconds = max(time.monotonic() - started, 0.001)
    log.info("%s to %s: %d bytes in %.1f s (%.1f MB/s)", backup_id, repository, sent, seconds, sent / 1e6 / seconds)
    return Copied(backup_id, repository, sent, seconds)


def _in_order(description: Description) -> list[tuple[str, str]]:
    """Return names and checksums in the order in which they are stored."""
    data = [(name, digest) for name, digest in sorted(description.digests.items()) if name != MANIFEST]
    sums = sha256(format_sums(description.digests)).hexdigest()
    return [*data, (MANIFEST, description.digests[MANIFEST]), (SUMS, sums)]


def _sound(local: Store, target: Store, description: Description) -> frozenset[str]:
    """Return the names that are there already with the right bytes; others go, and SHA256SUMS before any."""
    directory = description.backup_id.key("")
    held = {found.key.removeprefix(directory) for found in target.list(directory)}
    held &= {name for name, _ in _in_order(description)}
    sound = {name for name in held if is_there(local, target, directory + name)}
    if sound and sound == {name for name, _ in _in_order(description)}:
        return frozenset(sound)
    for name in (SUMS, *sorted(held - sound - {SUMS})):
        if name in held:
            target.delete(directory + name)
    return frozenset(sound - {SUMS})


def _complete(target: Store, description: Description) -> None:
    """Raise UnavailableError unless everything that the commit point stands for is listed with its size."""
    directory = description.backup_id.key("")
    held = {found.key.removeprefix(directory): found.bytes for found in target.list(directory)}
    wanted = {file.name: file.stored_bytes for file in description.manifest.files}
    lost = sorted(name for name, count in wanted.items() if held.get(name) != count)
    if lost or MANIFEST not in held:
        raise UnavailableError(
            f"repository {target.name} lost what was stored for {description.backup_id}",
            detail=", ".join(lost[:5] or [MANIFEST]),
            hint="it is copied again; if that happens again, something else deletes there: a lifecycle rule?",
        )


def _state(backup: Backup, repository: str) -> CopyState | None:
    return next((copy.state for copy in backup.copies if copy.repository == repository), None)

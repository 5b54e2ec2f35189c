"""Backups, object by object: data, then the manifest, then SHA256SUMS, which makes the copy one."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from pgbackup.copy.objects import copy_object, copy_small, is_there
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId, is_extra
from pgbackup.domain.model import Backup, CopyState, State
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.settings import LOCAL
from pgbackup.domain.sums import format_sums
from pgbackup.restore.fetch import Description, check_stored, describe_copy
from pgbackup.restore.listing import lacking

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
    """Return the backups that a repository lacks, or holds damaged; oldest first, so parents before children.

    Those that the local repository does not hold come last. What a rotation deleted there is not missing; what it
    deleted here is not copied any more.
    """
    found = [
        backup
        for backup in reversed(site.catalog.backups(cluster, states=_KEPT))
        if _state(backup, repository) in {None, CopyState.DAMAGED}
        and _state(backup, site.local.name) is not CopyState.EXPIRED
    ]
    return tuple(sorted(found, key=lambda backup: _state(backup, site.local.name) not in _THERE))


def copy_missing(site: Site, cluster: str, repository: str) -> tuple[Copied, ...]:
    """Copy every backup that a repository lacks, and of the others what came to them later or was lost there.

    What the local repository lost comes from another one. What can be read nowhere doesn't keep the others from being
    copied; its error is raised at the end. A repository that does not answer ends it at once: what is done stays done.
    """
    copied: list[Copied] = []
    refused: list[RefusedError] = []
    known = [backup.id for backup in missing_copies(site, cluster, repository)]
    for backup_id in itertools.chain(known, _incomplete(site, cluster, repository)):
        states = {copy.repository: copy.state for copy in site.catalog.copies(backup_id)}
        if CopyState.EXPIRED in {states.get(repository), states.get(site.local.name)}:
            continue  # a rotation was quicker
        there = [name for name in site.repositories if name != repository and states.get(name) in _THERE]
        try:
            copied.append(_copy_from_any(site, backup_id, repository, there or [site.local.name]))
        except RefusedError as error:
            log.error("%s is not copied to %s: %s", backup_id, repository, error)  # noqa: TRY400 - raised below
            refused.append(error)
    if refused:
        raise refused[0]
    return tuple(copied)


def _copy_from_any(site: Site, backup_id: str, repository: str, sources: Sequence[str]) -> Copied:
    """Copy from the first of these repositories that has the backup undamaged; raises the first one's error."""
    refused: list[RefusedError] = []
    for source in sources:
        try:
            return copy_backup(site, backup_id, repository, source=source)
        except RefusedError as error:
            log.warning("%s is not copied from %s: %s", backup_id, source, error.message)
            refused.append(error)
    raise refused[0]


def _incomplete(site: Site, cluster: str, repository: str) -> Iterator[str]:
    """Bring what came to the backups of a repository since they were copied; yield those of which it lost objects."""
    target = site.repositories[repository]
    stored = {backup.id for backup in site.catalog.backups(cluster) if _THERE & {_state(backup, repository)}}
    for backup_id, names in lacking(site.local, target, cluster):
        if str(backup_id) not in stored:
            continue
        if not all(map(is_extra, names)):
            log.warning("%s lost objects of %s: %s", repository, backup_id, ", ".join(sorted(names)))
            yield str(backup_id)
            continue
        for name in sorted(names):
            copy_small(site.local, target, backup_id.key(name))
            log.info("%s is in %s now", backup_id.key(name), repository)


def copy_backup(site: Site, backup_id: str, repository: str, *, source: str = LOCAL) -> Copied:
    """Bring one backup from a repository to another; what is there already is compared and stays.

    Raises RefusedError when the source does not hold it, or damaged: then nothing of the target's goes.
    UnavailableError when a repository does not answer: then the copy is none, and the next call goes on with it.
    """
    started = time.monotonic()
    origin, target = site.repositories[source], site.repositories[repository]
    description = describe_copy(site, origin, BackupId.parse(backup_id))
    found = {copy.repository: copy.state for copy in site.catalog.copies(backup_id)}
    key = description.backup_id.key
    extras = [name for name in sorted(_names(origin, description)) if is_extra(name)]
    # The checksum that a storage keeps does not show what became of the bytes.
    trusted = found.get(repository) is not CopyState.DAMAGED
    there = _sound(origin, target, description, replaced=() if trusted else (*extras, *description.digests))
    sent = 0
    for name, digest in _in_order(description):
        if name == SUMS:
            sent += sum(copy_small(origin, target, key(extra)) for extra in extras if extra not in there)
        if name == SUMS and SUMS not in there:
            _complete(target, description)
        if name not in there:
            progress = partial(site.progress, f"{name} to {repository}")
            sent += copy_object(origin, target, key(name), digest, progress=progress)
    site.catalog.copied(backup_id, repository=repository, now=site.clock())
    seconds = max(time.monotonic() - started, 0.001)
    log.info("%s to %s: %d bytes in %.1f s (%.1f MB/s)", backup_id, repository, sent, seconds, sent / 1e6 / seconds)
    return Copied(backup_id, repository, sent, seconds)


def _names(store: Store, description: Description) -> set[str]:
    directory = description.backup_id.key("")
    return {found.key.removeprefix(directory) for found in store.list(directory)}


def _in_order(description: Description) -> list[tuple[str, str]]:
    """Return names and checksums in the order in which they are stored."""
    data = [(name, digest) for name, digest in sorted(description.digests.items()) if name != MANIFEST]
    sums = sha256(format_sums(description.digests)).hexdigest()
    return [*data, (MANIFEST, description.digests[MANIFEST]), (SUMS, sums)]


def _sound(origin: Store, target: Store, description: Description, *, replaced: tuple[str, ...]) -> frozenset[str]:
    """Return the names that are there already and stay; others go, SHA256SUMS before any.

    Raises DamagedError when something had to go, and the origin could not bring it again.
    """
    key = description.backup_id.key
    held = _names(target, description)
    listed = {name for name, _ in _in_order(description)}
    sound = {name for name in held & listed - set(replaced) if is_there(origin, target, key(name))}
    going = held & (listed | set(replaced)) - sound
    if going or (SUMS in held and not listed <= sound):
        check_stored(origin, description)
        going |= {SUMS} & held
    for name in sorted(going, key=lambda name: name != SUMS):
        target.delete(key(name))
    return frozenset(held - going)


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

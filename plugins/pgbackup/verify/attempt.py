"""One verification under way: its number in the catalog, its private folder, and who works in it."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup import scratch
from pgbackup.domain.errors import BusyError, PgBackupError, UnfitError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.ports import Site

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"(?P<backup>.+)__(?P<repository>.+)__(?P<number>\d+)")
_FORGOTTEN = 86400.0  # seconds after which nobody comes back for the next step


@dataclass(frozen=True)
class Attempt:
    """One verification under way: which copy, which number, and its private folder."""

    backup_id: str
    repository: str
    number: int
    folder: Path

    @property
    def files(self) -> Path:
        """Where the decrypted files are."""
        return self.folder / "files"

    @property
    def server(self) -> Path:
        """Where the throw-away server is."""
        return self.folder / "server"


def open_attempt(site: Site, backup_id: str, repository: str) -> Attempt:
    """Open an attempt in the catalog, or take up this owner's unfinished one; remove what dead ones left."""
    parsed = BackupId.parse(backup_id)
    if repository not in site.repositories:
        raise UnfitError(f"no repository {repository!r} is configured", detail=", ".join(site.repositories))
    number = site.catalog.begin_verification(str(parsed), repository=repository, owner=site.owner, now=site.clock())
    attempt = attempt_of(site, backup_id, repository, number)
    _sweep(site, attempt)
    return attempt


def attempt_of(site: Site, backup_id: str, repository: str, number: int) -> Attempt:
    """Return an attempt that was opened before."""
    folder = site.spool / "verify" / f"{BackupId.parse(backup_id)}__{repository}__{number}"
    return Attempt(backup_id, repository, number, folder)


def give_up(site: Site, attempt: Attempt, error: BaseException) -> None:
    """Close an attempt without a verdict: the verifier could not judge. The same owner may take it up again."""
    with contextlib.suppress(PgBackupError):
        site.catalog.conclude(
            attempt.backup_id,
            repository=attempt.repository,
            attempt=attempt.number,
            verdict=None,
            reason=str(error) or type(error).__name__,
            now=site.clock(),
        )


def discard(attempt: Attempt) -> None:
    """Remove the decrypted files and the throw-away server, unless another process works in them."""
    with contextlib.suppress(BusyError, OSError), held(attempt):
        shutil.rmtree(attempt.folder, ignore_errors=True)


@contextlib.contextmanager
def held(attempt: Attempt) -> Iterator[None]:
    """Hold the attempt's folder while a step works in it; the hold ends with the process, however that ends."""
    attempt.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy = BusyError(
        f"{attempt.backup_id} in {attempt.repository} is being verified by another process",
        detail=str(attempt.folder),
        hint="wait for it to end",
    )
    with scratch.held(attempt.folder, busy):
        yield


def empty(attempt: Attempt) -> None:
    """Remove what an earlier try of the first step left."""
    for entry in attempt.folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sweep(site: Site, opened: Attempt) -> None:
    """Remove the decrypted files of attempts that nobody works on and nobody comes back to."""
    for folder in sorted(opened.folder.parent.glob("*__*__*")):
        match = _FOLDER.fullmatch(folder.name)
        if match is None or folder == opened.folder:
            continue
        other = attempt_of(site, match["backup"], match["repository"], int(match["number"]))
        with contextlib.suppress(BusyError, OSError), held(other):
            known = site.catalog.verification(other.backup_id, repository=other.repository, attempt=other.number)
            superseded = (other.backup_id, other.repository) == (opened.backup_id, opened.repository)
            forgotten = time.time() - folder.stat().st_mtime > _FORGOTTEN
            if superseded or forgotten or known is None or known.verdict is not None:
                shutil.rmtree(folder, ignore_errors=True)
                log.warning("removed what attempt %d on %s left", other.number, other.backup_id)

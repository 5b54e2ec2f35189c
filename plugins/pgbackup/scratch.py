"""Folders that one process holds. The private ones, for what must not stay (passwords, keys, sockets), go with it, or
are removed by the next process where it was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PLACE = Path("/tmp")  # noqa: S108 - short on purpose: a socket's path has a limit of about 100 characters
_PREFIX = "pgbackup-"
_MINUTE = 60.0
_LOOK = 0.1


def make_private(folder: Path) -> None:
    """Make a folder with mode 0700, and those that it lies in: mkdir would make these for everybody."""
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def held(folder: Path, busy: Exception, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process; the hold ends with it, however it ends.

    Raises ``busy`` when another process still holds it after ``patience`` seconds, OSError when it cannot be opened.
    """
    deadline = time.monotonic() + patience
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise busy from None
                time.sleep(_LOOK)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def private_folder(place: Path = _PLACE) -> Iterator[Path]:
    """Make a folder with mode 0700 and remove it; it is held by a lock that ends with this process."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _sweep(place: Path) -> None:
    """Remove the folders that nobody holds; a new one is left alone until its maker has had the time to lock it."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < _MINUTE:
                continue
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)

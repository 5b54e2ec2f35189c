"""Private folders for what must not stay: passwords, keys, sockets. A killed process's are removed by the next one."""

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


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder with mode 0700 and remove it; it is held by a lock that ends with this process."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _sweep() -> None:
    """Remove the folders that nobody holds; a new one is left alone until its maker has had the time to lock it."""
    for folder in _PLACE.glob(f"{_PREFIX}*"):
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

"""A repository in a folder: private, written once, durable before it is visible."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pgbackup.domain.errors import PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Readable, Sink
from pgbackup.store.compare import same_bytes
from pgbackup.store.keys import checked_parts

_UNFINISHED = ".unfinished-"
_REMOVED = ".removed-"


class LocalStore:
    """Objects are files of mode 0600 in folders of mode 0700; names that start with a dot are not objects."""

    def __init__(self, root: Path, *, name: str = "local") -> None:
        self._root = root
        self._name = name

    @property
    def name(self) -> str:
        """The repository's name."""
        return self._name

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    @contextlib.contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        """Write an object; see ports.Store. What is unfinished when the power goes has a dot name: it is no object."""
        final = self._path(key)
        unfinished = final.with_name(f"{_UNFINISHED}{secrets.token_hex(4)}-{final.name[:180]}")
        try:
            self._make_folder(final.parent)
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _failure(error, final) from error
        try:
            with contextlib.closing(_File(fd, final)) as file:
                yield file
                with _explained(final):
                    os.fsync(fd)
            with _explained(final):
                os.link(unfinished, final)  # never overwrites, unlike a rename
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink()
        with _explained(final):
            _sync_folder(final.parent)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Readable]:
        """Read an object; see ports.Store."""
        path = self._path(key)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise RefusedError(f"repository {self._name} does not hold {key}") from None
        except OSError as error:
            raise _failure(error, path) from error
        with file:
            yield file

    def read(self, key: str) -> bytes:
        """Return a small object whole; see ports.Store."""
        with self.open(key) as file, _explained(self._path(key)):
            return file.read()

    def matches(self, key: str, source: Readable) -> bool:
        """Compare by reading it; see ports.Store."""
        with self.open(key) as file:
            return same_bytes(file, source)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """List complete objects in key order; see ports.Store."""
        folder, slash, start = prefix.rpartition("/")
        if after >= prefix and not after.startswith(folder + slash):
            return
        with _explained(self._root):
            top = self._path(folder) if slash else self._root
            for way in _files(str(top), start, after.removeprefix(folder + slash) if after >= prefix else ""):
                status = os.stat(f"{top}/{way}")  # noqa: PTH116 - a hundred thousand Paths take longer than the disk
                yield ObjectInfo(folder + slash + way, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def delete(self, key: str) -> None:
        """Remove an object; see ports.Store."""
        path = self._path(key)
        with _explained(path), contextlib.suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def clean(self, prefix: str) -> None:
        """Remove a folder of objects, finished or not; see ports.Store."""
        path = self._path(prefix)
        removed = path.with_name(f"{_REMOVED}{path.name}")
        with _explained(path):
            if removed.is_dir():  # by one who was killed
                shutil.rmtree(removed)
            if path.is_dir():
                path.rename(removed)  # at once: half a backup must not look like one while it goes
                shutil.rmtree(removed)
                _sync_folder(path.parent)

    def hold(self, key: str, *, on: bool) -> None:
        """Do nothing: a filesystem has no such lock."""

    def free_bytes(self) -> int | None:
        """Return the space that is left for us."""
        folder = self._root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*checked_parts(key))

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder != self._root:
            self._make_folder(folder.parent if folder.parent != folder else self._root)
        folder.mkdir(mode=0o700, parents=folder == self._root, exist_ok=True)
        _sync_folder(folder.parent)


class _File:
    """The open object: writes say what is wrong with the disk, not just that something is."""

    def __init__(self, fd: int, final: Path) -> None:
        self._fd = fd
        self._final = final

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with _explained(self._final):
            while view:
                view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        os.close(self._fd)


def _files(folder: str, start: str = "", after: str = "") -> Iterator[str]:
    """Walk the files whose way begins with ``start`` and is greater than ``after``, in the order of their keys:
    ``a-b/c`` comes before ``a/b``. Holds the names of one folder at each level.
    """
    try:
        with os.scandir(folder) as entries:
            wanted = (entry for entry in entries if entry.name.startswith(start) and not entry.name.startswith("."))
            names = (f"{entry.name}/" if entry.is_dir() else entry.name for entry in wanted)
            found = sorted(name for name in names if name > after or (name.endswith("/") and after.startswith(name)))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in found:
        if name.endswith("/"):
            rest = after.removeprefix(name) if after.startswith(name) else ""
            yield from (name + way for way in _files(folder + "/" + name, after=rest))
        else:
            yield name


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(error, path) from error


def _failure(error: OSError, path: Path) -> PgBackupError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.EEXIST:
            return RefusedError(f"{path} exists already", hint="objects are written once; a retry takes a new id")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return UnfitError(
                f"no right to use {path}",
                detail=reason,
                hint="the repository belongs to the backup's account, mode 0700",
            )
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return UnavailableError(
                f"no space left for {path}",
                detail=reason,
                hint="free space, or let paths.backups point to a larger disk",
            )
        case _:
            return UnavailableError(f"the disk fails at {path}", detail=reason, hint="look at the kernel's log (dmesg)")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

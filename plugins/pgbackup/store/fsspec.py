"""A repository on a storage that fsspec knows: Google Cloud Storage (gcsfs), Azure Blob (adlfs).

Objects are streamed, and appear when they are whole; the storage itself refuses a key that is taken (mode ``xb``).
Nothing is common to what such storages keep of an object: comparing reads it. A folder is listed at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pgbackup.domain.errors import PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.ids import SUMS
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Readable, Sink
from pgbackup.store.compare import same_bytes
from pgbackup.store.keys import checked_parts

_MODIFIED = ("updated", "last_modified", "LastModified", "mtime", "created")
_BLOCK = 8 << 20


def filesystem(url: str) -> tuple[Any, str]:
    """Return the filesystem of a URL, with the credentials of the environment, and the path in it.

    Raises UnfitError when its package is not installed.
    """
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - an optional extra

        found: tuple[Any, str] = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise UnfitError(
            f"cannot use {url}", detail=str(error), hint="install pgbackup[gcs] for gs://, pgbackup[azure] for az://"
        ) from None
    except Exception as error:
        raise UnfitError(
            f"cannot use {url}", detail=str(error), hint="the credentials are those of the environment"
        ) from error
    return found


class FsspecStore:
    """See ports.Store. ``connect`` makes the filesystem, and the path of the repository in it, at the first use."""

    def __init__(self, connect: Callable[[], tuple[Any, str]], *, name: str) -> None:
        self._connect = connect
        self._name = name

    @property
    def name(self) -> str:
        """The repository's name."""
        return self._name

    @contextlib.contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        """Write an object; see ports.Store."""
        path = self._path(key)
        with self._explained(key):
            if self._fs.exists(path):  # it is refused at the end anyway: this spares the way
                raise FileExistsError(path)
            file = self._fs.open(path, "xb", block_size=_BLOCK)
        try:
            yield _Writing(file, lambda: self._explained(key))
            with self._explained(key):
                file.close()
        finally:
            if not file.closed:
                with contextlib.suppress(Exception):
                    file.discard()
                file.closed = True  # else it would be completed when it is forgotten

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Readable]:
        """Read an object; see ports.Store."""
        with self._explained(key):
            file = self._fs.open(self._path(key), "rb", block_size=_BLOCK)
        with contextlib.closing(file):
            yield _Reading(file, lambda: self._explained(key))

    def read(self, key: str) -> bytes:
        """Return a small object whole; see ports.Store."""
        with self.open(key) as file:
            return file.read()

    def matches(self, key: str, source: Readable) -> bool:
        """Compare by reading it; see ports.Store."""
        with self.open(key) as file:
            return same_bytes(file, source)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """List complete objects in key order, folder by folder; see ports.Store."""
        folder, slash, start = prefix.rpartition("/")
        return self._walk(folder + slash, start, after)

    def delete(self, key: str) -> None:
        """Remove an object; see ports.Store."""
        path = self._path(key)
        with self._explained(key), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def clean(self, prefix: str) -> None:
        """Remove everything under a prefix; see ports.Store. The commit point goes first; parts expire alone."""
        folder = "/".join(checked_parts(prefix))
        self.delete(f"{folder}/{SUMS}")
        for found in self.list(f"{folder}/"):
            self.delete(found.key)

    def hold(self, key: str, *, on: bool) -> None:
        """Do nothing; see ports.Store."""

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no end."""
        return None

    @cached_property
    def _located(self) -> tuple[Any, str]:
        return self._connect()

    @property
    def _fs(self) -> Any:
        return self._located[0]

    def _path(self, key: str) -> str:
        return f"{self._located[1].rstrip('/')}/{'/'.join(checked_parts(key))}"

    def _walk(self, folder: str, start: str, after: str) -> Iterator[ObjectInfo]:
        for name, entry in sorted(self._entries(folder)):
            key = folder + name
            if not name.startswith(start) or name.startswith("."):
                continue
            if name.endswith("/") and (key > after or after.startswith(key)):
                yield from self._walk(key, "", after)
            elif key > after and not name.endswith("/"):
                modified = next(entry[field] for field in _MODIFIED if entry.get(field))
                moment = modified if isinstance(modified, datetime) else datetime.fromisoformat(modified)
                yield ObjectInfo(key, int(entry["size"]), moment if moment.tzinfo else moment.replace(tzinfo=UTC))

    def _entries(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        path = f"{self._located[1].rstrip('/')}/{folder}".rstrip("/")
        with self._explained(folder), contextlib.suppress(FileNotFoundError):
            for entry in self._fs.ls(path, detail=True):
                name = entry["name"].rstrip("/").rpartition("/")[2]
                if entry["name"].strip("/") != path.strip("/"):
                    yield (f"{name}/" if entry["type"] == "directory" else name), entry

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except PgBackupError:
            raise
        except FileNotFoundError:
            raise RefusedError(f"repository {self._name} does not hold {key}") from None
        except FileExistsError:
            raise RefusedError(
                f"{key} exists already in repository {self._name}",
                hint="objects are written once; a retry takes a new id",
            ) from None
        except PermissionError as error:
            raise UnfitError(
                f"repository {self._name} refuses {key}", detail=str(error)[:1000], hint="look at the credentials"
            ) from error
        except Exception as error:  # each filesystem has errors of its own
            raise UnavailableError(
                f"repository {self._name} fails at {key}", detail=str(error)[:1000], hint="it is tried again later"
            ) from error


class _Writing:
    def __init__(self, file: Any, explained: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._file = file
        self._explained = explained

    def write(self, data: bytes | memoryview) -> None:
        with self._explained():
            self._file.write(bytes(data))


class _Reading:
    def __init__(self, file: Any, explained: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._file = file
        self._explained = explained

    def read(self, size: int = -1, /) -> bytes:
        with self._explained():
            data: bytes = self._file.read(size)
            return data

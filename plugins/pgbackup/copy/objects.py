"""One object from repository to repository: streamed, its checksum compared on the way, kept by the far end."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ports import Store
from pgbackup.restore.fetch import DamagedError

_CHUNK = 1 << 20


def _unwatched(_count: int) -> None:
    """Progress of what is over at once."""


def copy_object(
    source: Store, target: Store, key: str, digest: str, *, progress: Callable[[int], None] = _unwatched
) -> int:
    """Copy one object that has this SHA-256; return its bytes, or 0 when somebody else just stored the same.

    Raises DamagedError, and stores nothing, when the source holds other bytes; RefusedError when the target does.
    """
    seen, count = sha256(usedforsecurity=False), 0
    try:
        with source.open(key) as file, target.create(key) as sink:
            while chunk := file.read(_CHUNK):
                seen.update(chunk)
                sink.write(chunk)
                count += len(chunk)
                progress(count)
            _compare(source, key, seen.hexdigest(), digest)
    except DamagedError:
        raise
    except RefusedError:
        if not is_there(source, target, key):
            raise
        return 0
    return count


def copy_small(source: Store, target: Store, key: str) -> int:
    """Copy a small object that no checksum is known of; return its bytes.

    0 when the target has one under its key: that stays; or when it just went from the source.
    """
    try:
        data = source.read(key)
        with target.create(key) as sink:
            sink.write(data)
    except RefusedError:
        return 0
    return len(data)


def is_there(source: Store, target: Store, key: str) -> bool:
    """Tell whether the target's object has the bytes of the source's; raises RefusedError when either is missing."""
    with source.open(key) as file:
        return target.matches(key, file)


def check_object(store: Store, key: str, digest: str) -> None:
    """Raise DamagedError unless an object has this SHA-256."""
    seen = sha256(usedforsecurity=False)
    with store.open(key) as file:
        while chunk := file.read(_CHUNK):
            seen.update(chunk)
    _compare(store, key, seen.hexdigest(), digest)


def _compare(store: Store, key: str, seen: str, digest: str) -> None:
    if seen != digest:
        raise DamagedError(
            f"{key} in repository {store.name} does not match its checksum",
            hint="bring it back from another repository: pgbackup copy --from; then verify it",
        )

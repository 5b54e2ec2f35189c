"""One object from repository to repository: streamed, its checksum compared on the way, kept by the far end."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ports import Store
from pgbackup.restore.fetch import DamagedError

_CHUNK = 1 << 20


def copy_object(source: Store, target: Store, key: str, digest: str, *, progress: Callable[[int], None]) -> int:
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
            if seen.hexdigest() != digest:
                raise DamagedError(
                    f"{key} in repository {source.name} does not match its checksum",
                    hint="verify that copy, and bring the object back from another repository",
                )
    except DamagedError:
        raise
    except RefusedError:
        if not is_there(source, target, key):
            raise
        return 0
    return count


def is_there(source: Store, target: Store, key: str) -> bool:
    """Tell whether the target's object has the bytes of the source's; raises RefusedError when either is missing."""
    with source.open(key) as file:
        return target.matches(key, file)

"""Whether two objects are the same, by their bytes."""

from __future__ import annotations

from hashlib import sha256

from pgbackup.domain.ports import Readable

_CHUNK = 1 << 20


def same_bytes(one: Readable, other: Readable) -> bool:
    """Tell whether both hold the same; reads both to the end."""
    return _digest(one) == _digest(other)


def _digest(file: Readable) -> bytes:
    digest = sha256(usedforsecurity=False)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()

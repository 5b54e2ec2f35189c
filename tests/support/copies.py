"""Copies as tests look at them: what is where, sealed files, a repository that goes away."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pgbackup.domain.errors import UnavailableError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import CopyState
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Sealed
from pgbackup.restore.fetch import check_stored, describe_copy

FAR = "eu-central-1"


def keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(found.key for found in store.list(prefix))


def contents(store: Store, prefix: str = "") -> list[tuple[str, bytes]]:
    return [(key, store.read(key)) for key in keys(store, prefix)]


def is_whole(site: Site, store: Store, backup_id: str) -> bool:
    return check_stored(store, describe_copy(site, store, BackupId.parse(backup_id))) > 0


def state(site: Site, backup_id: str, repository: str) -> CopyState | None:
    return {copy.repository: copy.state for copy in site.catalog.copies(backup_id)}.get(repository)


def put(store: Store, key: str, data: bytes) -> None:
    with store.create(key) as sink:
        sink.write(data)


def damage(path: Path) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def seal(store: Store, number: int) -> Sealed:
    """A file of the archive as the sealer leaves it; what is in it is nothing to copying."""
    data = os.urandom(1000)
    name = f"0000000100000000{number:08X}"
    sealed = Sealed(
        cluster="streamflix", name=name, system_identifier="7", timeline=1, segment_size=1 << 24,
        plain_bytes=1 << 24, plain_sha256=sha256(name.encode()).hexdigest(), stored_bytes=len(data),
        stored_sha256=sha256(data).hexdigest(), encrypted=True, sealed_at=datetime.now(UTC),
    )  # fmt: skip
    put(store, sealed.data_key, data)
    put(store, sealed.sidecar_key, sealed.to_json())
    return sealed


def sidecars(store: Store) -> list[str]:
    return [key for key in keys(store, "wal/") if key.endswith(".json")]


def _gone() -> None:
    raise UnavailableError("gone")


class Going:
    """A repository that goes away after some more objects, or where something else happens then."""

    def __init__(self, store: Store, left: int, goes: Callable[[], object] = _gone) -> None:
        self._store = store
        self._left = left
        self._goes = goes

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def create(self, key: str) -> object:
        if not self._left:
            self._goes()
        self._left -= 1
        return self._store.create(key)

"""Who can open what: read from what is stored, without any private key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.keys import Key, Role
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Site, Store
from pgbackup.keys.stored import repository, stored_backups
from pgbackup.restore.fetch import key_files

_BEGINNING = 1 << 14
"""Bytes; the names of twenty recipients fit in with the largest keys."""
_READERS = 8
_RECIPIENTS = frozenset({Role.RECIPIENT, Role.ESCROW})


@dataclass(frozen=True)
class Opens:
    """How many there are that somebody can open, of how many; the oldest and the newest of them, None without any."""

    count: int
    of: int
    oldest: str | None
    newest: str | None


@dataclass(frozen=True)
class KeyUse:
    """One key: by its fingerprint, or, where it is not configured here, by the id of its encryption key."""

    name: str
    roles: tuple[Role, ...]
    expires: datetime | None
    backups: Opens
    wal: Opens


@dataclass(frozen=True)
class KeyReport:
    """What each key can open in a repository, and what today's private keys can, by what the stored files say.

    ``lost`` are backups that none of today's recipients opens; ``problems`` those whose key files cannot be read.
    """

    repository: str
    keys: tuple[KeyUse, ...]
    backups: Opens
    wal: Opens
    lost: tuple[str, ...]
    problems: tuple[str, ...]


def report_keys(site: Site, cluster: str, name: str) -> KeyReport:
    """Read for whom each backup and each WAL file of a repository is encrypted.

    The beginning of every WAL file is read. A forged key file may claim what it likes: `keys check` really opens.
    """
    store = repository(site, name)
    problems: list[str] = []
    ids = sorted(stored_backups(store, cluster), key=lambda one: one.stamp)
    found = ((str(one), _readers(site, store, one, problems)) for one in ids)
    backups = {one: readers for one, readers in found if readers is not None}
    wal = _wal(site, store, cluster, problems)
    configured = site.keyring.expiries()
    recipients = {key.fingerprint for key in configured if key.role in _RECIPIENTS}
    ours = {key.fingerprint for key in configured if key.role is Role.PRIVATE}
    names = dict.fromkeys([*(key.fingerprint for key in configured if _opens(key)), *_all(backups), *_all(wal)])
    return KeyReport(
        store.name,
        tuple(_use(name, [key for key in configured if key.fingerprint == name], backups, wal) for name in names),
        _openable(backups, ours),
        _openable(wal, ours),
        tuple(one for one, readers in backups.items() if readers and not readers & recipients),
        tuple(problems),
    )


def _opens(key: Key) -> bool:
    return key.role in {*_RECIPIENTS, Role.PRIVATE}


def _readers(site: Site, store: Store, backup_id: BackupId, problems: list[str]) -> frozenset[str] | None:
    """Return who opens any key file of a backup; nobody has to where there is none. None when none can be read."""
    found: set[str] = set()
    names = key_files(store, backup_id)
    for name in names:
        try:
            found |= site.keyring.sealed_for(store.read(backup_id.key(name)))
        except RefusedError as error:
            problems.append(f"{backup_id}/{name}: {error.message}")
    return frozenset(found) if found or not names else None


def _wal(site: Site, store: Store, cluster: str, problems: list[str]) -> dict[str, frozenset[str]]:
    """Return who opens each WAL file, by the time when it was stored, the oldest first."""

    def readers(info: ObjectInfo) -> frozenset[str] | None:
        try:
            with store.open(info.key) as source:
                return site.keyring.sealed_for(source.read(_BEGINNING))
        except RefusedError as error:
            problems.append(f"{info.key}: {error.message}")
            return None

    files = [info for info in store.list(f"wal/{cluster}/") if info.key.endswith(".zst.gpg")]
    files.sort(key=lambda info: (info.modified, info.key))
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        found = zip(files, pool.map(readers, files), strict=True)
        return {f"{info.modified:%Y-%m-%d %H:%M} {info.key}": names for info, names in found if names is not None}


def _all(stored: Mapping[str, frozenset[str]]) -> list[str]:
    return sorted(frozenset().union(*stored.values()))


def _use(
    name: str, keys: Sequence[Key], backups: Mapping[str, frozenset[str]], wal: Mapping[str, frozenset[str]]
) -> KeyUse:
    expires = min((key.expires for key in keys if key.expires), default=None)
    roles = tuple(dict.fromkeys(key.role for key in keys))
    return KeyUse(name, roles, expires, _openable(backups, {name}), _openable(wal, {name}))


def _openable(stored: Mapping[str, frozenset[str]], names: set[str]) -> Opens:
    """Count what these keys open; what is not encrypted is open to everybody."""
    found = [one for one, readers in stored.items() if not readers or readers & names]
    return Opens(len(found), len(stored), found[0] if found else None, found[-1] if found else None)

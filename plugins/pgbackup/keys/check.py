"""Open the oldest of everything with today's private keys: nobody notices otherwise that a key was lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pgbackup.domain.errors import PgBackupError, WrongKeyError
from pgbackup.domain.findings import Answer, timed
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import Finding, Kind
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import is_segment, sealed_files
from pgbackup.keys.stored import stored_backups
from pgbackup.restore.archive import fetch_wal, read_sidecar
from pgbackup.restore.fetch import describe_copy, open_passphrase, try_passphrase
from pgbackup.scratch import private_folder

_HINT = (
    "find the private key of one of its recipients (`pgbackup keys report`), name it in encryption.private_keys, then"
    " `pgbackup keys add`; WAL stays with its recipients: keep their keys until it has gone"
)
_BEGINNING = 1 << 14


def check_keys(site: Site, cluster: str) -> tuple[Finding, ...]:
    """Open the oldest backup of each kind and the oldest WAL segment in each repository; never raises for what fails.

    What a repository does not hold is not judged.
    """
    found: list[Finding] = []
    for store in site.repositories.values():
        found.extend(_check(site, store, cluster))
    return tuple(found)


def _check(site: Site, store: Store, cluster: str) -> list[Finding]:
    oldest: dict[Kind, BackupId] = {}
    segments: list[str] = []

    def look() -> Answer:
        for one in stored_backups(store, cluster):
            oldest.setdefault(one.kind, one)
        segments.extend(_oldest_segment(store, cluster))
        return True, "", ""

    reached = _judge(f"{store.name} can be listed", look)
    found = [
        _judge(f"today's keys open the oldest {kind} backup in {store.name}", partial(_backup, site, store, one))
        for kind, one in oldest.items()
    ]
    found += [
        _judge(f"today's keys open the oldest WAL in {store.name}", partial(_segment, site, store, key))
        for key in segments
    ]
    return found if reached.ok else [reached, *found]


def _backup(site: Site, store: Store, backup_id: BackupId) -> Answer:
    description = describe_copy(site, store, backup_id)
    name = try_passphrase(site, store, description, open_passphrase(site, store, description))
    return True, f"{backup_id}, tried on {name}", ""


def _oldest_segment(store: Store, cluster: str) -> list[str]:
    """Return the sidecar of the segment that was stored first; none where there is no WAL."""
    times = {info.key: info.modified for info in store.list(f"wal/{cluster}/")}
    found = [one for one in sealed_files(times) if is_segment(one.name)]
    found.sort(key=lambda one: (times[one.sidecar_key], one.name))
    return [one.sidecar_key for one in found[:1]]


def _segment(site: Site, store: Store, key: str) -> Answer:
    [archived] = sealed_files([key])
    sealed = read_sidecar(store, archived)
    if sealed.encrypted:
        with store.open(sealed.data_key) as source:
            names = site.keyring.sealed_for(source.read(_BEGINNING))
        if not names & set(site.keyring.identities()):
            raise WrongKeyError(f"none of our private keys opens {archived.name}", detail=", ".join(sorted(names)))
    with private_folder(site.spool) as folder, site.keyring.opened() as unlock:
        fetch_wal(site, store, [archived], folder, unlock, jobs=1)
    return True, archived.name, ""


def _judge(name: str, check: Callable[[], Answer]) -> Finding:
    def answer() -> Answer:
        try:
            return check()
        except PgBackupError as error:
            return False, ": ".join(filter(None, (error.message, error.detail))), error.hint or _HINT

    return timed(name, answer, clock=time.monotonic)

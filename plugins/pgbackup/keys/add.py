"""Let today's recipients open old backups: one more key file each, nothing else is rewritten."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import sha256

from pgbackup.domain.errors import RefusedError, WrongKeyError
from pgbackup.domain.ids import KEY_FILE, BackupId
from pgbackup.domain.ports import Site, Store
from pgbackup.keys.stored import repository, stored_backups
from pgbackup.restore.fetch import Description, describe_copy, key_files, open_key_file, open_passphrase
from pgbackup.restore.holds import alone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeysAdded:
    """``added``: the keys of the new objects; ``served``: ids of backups that needed none; ``failures`` by id."""

    added: tuple[str, ...]
    served: tuple[str, ...]
    failures: dict[str, str]


def add_keys(site: Site, cluster: str, name: str, *, backup_id: str | None = None) -> KeysAdded:
    """Wrap the passphrase of each backup in a repository, or of one, to today's recipients.

    Needs a private key that opens it. One whose newest key file serves exactly today's recipients is left alone; one
    that cannot be opened is among the failures. Raises UnavailableError when the repository does not answer, BusyError
    while a rotation deletes there, or a backup is taken into it.
    """
    store = repository(site, name)
    today = frozenset(site.keyring.recipients())
    added: list[str] = []
    served: list[str] = []
    failures: dict[str, str] = {}
    with alone(site, cluster, name, purpose="change of keys"):
        for one in stored_backups(store, cluster, backup_id):
            try:
                key = _add(site, store, one, today)
            except (RefusedError, WrongKeyError) as error:
                failures[str(one)] = str(error)
                log.warning("%s: no key is added: %s", one, error.message)
                continue
            if key is None:
                served.append(str(one))
            else:
                added.append(key)
                log.info("%s: written", key)
    return KeysAdded(tuple(added), tuple(served), failures)


def _add(site: Site, store: Store, backup_id: BackupId, today: frozenset[str]) -> str | None:
    description = describe_copy(site, store, backup_id)
    names = key_files(store, backup_id)
    if not description.manifest.encrypted or (names and _serves(site, store, description, names[0], today)):
        return None
    passphrase = open_passphrase(site, store, description)
    number = max((int(match[1]) for match in map(KEY_FILE.fullmatch, names) if match), default=1) + 1
    key = backup_id.key(f"key.{number}.gpg")
    with store.create(key) as sink:
        sink.write(site.keyring.wrap(passphrase))
    return key


def _serves(site: Site, store: Store, description: Description, name: str, today: frozenset[str]) -> bool:
    """Tell whether a key file is for exactly these recipients.

    What it says of itself is not believed: whoever may write could leave one with another passphrase there, and wait
    for the old keys to be destroyed. Where none of our private keys opens it nobody can tell.
    """
    try:
        wrapped = store.read(description.backup_id.key(name))
        if site.keyring.sealed_for(wrapped) != today:
            return False
        if name in description.digests:
            return sha256(wrapped).hexdigest() == description.digests[name]
        open_key_file(site, store, description, name)
    except WrongKeyError:
        return True
    except RefusedError:
        return False
    return True

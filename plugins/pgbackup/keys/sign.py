"""Vouch for backups from before signatures were asked for."""

from __future__ import annotations

import logging

from pgbackup.domain.errors import UnfitError
from pgbackup.domain.ids import SIGNATURE, SUMS
from pgbackup.domain.ports import Site
from pgbackup.keys.stored import repository, stored_backups
from pgbackup.restore.holds import alone

log = logging.getLogger(__name__)


def sign_backups(site: Site, cluster: str, name: str, *, backup_id: str | None = None) -> tuple[str, ...]:
    """Sign each backup in a repository that has no signature, or one; return the keys of the new objects.

    Whoever calls this says that they are genuine: the signature cannot be told from one of the capture. A signature
    that is there stays, whatever it is worth. Raises UnfitError where no signing key is configured, BusyError while a
    rotation deletes there, or a backup is taken into it.
    """
    store = repository(site, name)
    signed: list[str] = []
    with alone(site, cluster, name, purpose="change of keys"):
        for one in stored_backups(store, cluster, backup_id):
            key = one.key(SIGNATURE)
            if any(found.key == key for found in store.list(key)):
                continue
            signature = site.keyring.sign(store.read(one.key(SUMS)))
            if not signature:
                raise UnfitError("no signing key is configured here", hint="see encryption.signing_key")
            with store.create(key) as sink:
                sink.write(signature)
            log.info("%s: written", key)
            signed.append(key)
    return tuple(signed)

"""Which backups of a cluster a repository holds, by its own listing."""

from __future__ import annotations

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.ports import Site, Store
from pgbackup.restore.rebuild import committed


def repository(site: Site, name: str) -> Store:
    """Return a repository; raises ConfigurationError for a name that is none."""
    if name not in site.repositories:
        raise ConfigurationError(f"no repository {name!r}", detail=", ".join(site.repositories))
    return site.repositories[name]


def stored_backups(store: Store, cluster: str, backup_id: str | None = None) -> tuple[BackupId, ...]:
    """Return a cluster's backups, the oldest of each kind first, or just the named one.

    Raises RefusedError when that one is not there.
    """
    found = [one for one in committed(store) if one.cluster == cluster]
    if backup_id is None:
        return tuple(found)
    named = BackupId.parse(backup_id)
    if named not in found:
        raise RefusedError(f"{named} is not in {store.name}", hint="`pgbackup list` shows what is where")
    return (named,)

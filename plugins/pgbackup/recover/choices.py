"""What a recovery can be made from, for people to choose: databases, verified backups, tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.findings import some
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site, Store
from pgbackup.recover.dumps import choose_dump, refuse_none, verified_backups, verified_dumps
from pgbackup.recover.sources import best

_MOST = 500
"""More than that nobody looks through."""


@dataclass(frozen=True)
class Choice:
    """Something that can be chosen, and what to know of it."""

    value: str
    note: str


def only_database(site: Site, cluster: str, repository: str | None) -> str:
    """Return the database of a cluster's newest verified backup that is not `postgres`.

    Raises ConfigurationError with their names when there are several, RefusedError when there is no backup.
    """

    def newest(store: Store) -> Manifest:
        return next(verified_backups(site, cluster, store.name), None) or refuse_none(site, cluster, "any", store.name)

    found = best(site, repository, newest, lambda one: one.backup_time, wanted=f"holds a verified backup of {cluster}")[
        0
    ]
    names = [entry.name for entry in found.databases]
    own = [name for name in names if name != "postgres"]
    if len(own) != 1:
        raise ConfigurationError("which database?", detail=some(names, most=20), hint="name one of them in the form")
    return own[0]


def backup_choices(site: Site, cluster: str, database: str, repository: str | None) -> tuple[Choice, ...]:
    """List the verified full backups that hold a database, newest first; RefusedError: none.

    Those of one repository: the named one, else the local one, or the one of the others with the newest.
    """
    now = site.clock()

    def choices(store: Store) -> tuple[Choice, ...]:
        found = tuple(
            Choice(dump.manifest.id, f"{dump.verdict}, {_age(now - dump.manifest.backup_time)} old")
            for dump in verified_dumps(site, cluster, database, store.name)
        )
        return found or refuse_none(site, cluster, database, store.name)

    wanted = f"holds a verified backup of {database!r}"
    return best(site, repository, choices, lambda found: found[0].value, wanted=wanted)[0]


def table_choices(
    site: Site, cluster: str, database: str, backup_id: str | None, repository: str | None
) -> tuple[Choice, ...]:
    """List the tables of a database in a full backup (None: the newest verified one), with what it knows of them."""
    dump = choose_dump(site, cluster, database, backup_id, repository=repository, even_rejected=True)
    tables = [table for table in dump.entry.tables if table.kind in {"r", "p"}]
    if not 0 < len(tables) <= _MOST:
        raise ConfigurationError(f"{dump.manifest.id} holds {len(tables)} tables", hint="name one in the form")
    return tuple(
        Choice(f"{table.schema_name}.{table.name}", f"{table.content.rows} rows" if table.content else "not counted")
        for table in sorted(tables, key=lambda one: (one.schema_name, one.name))
    )


def _age(age: timedelta) -> str:
    """Say how long ago something was.

    >>> _age(timedelta(hours=30, minutes=5))
    '30 h 5 min'
    """
    minutes = age // timedelta(minutes=1)
    return f"{minutes // 1440} days" if minutes >= 2880 else f"{minutes // 60} h {minutes % 60} min"

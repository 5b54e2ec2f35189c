"""What a recovery can be made from, for people to choose: databases, verified backups, tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.findings import some
from pgbackup.domain.ports import Site
from pgbackup.recover.dumps import choose_dump, refuse_none, verified_backups, verified_dumps

_MOST = 500
"""More than that nobody looks through."""


@dataclass(frozen=True)
class Choice:
    """Something that can be chosen, and what to know of it."""

    value: str
    note: str


def only_database(site: Site, cluster: str, repository: str) -> str:
    """Return the database of a cluster's newest verified backup that is not `postgres`.

    Raises ConfigurationError with their names when there are several, RefusedError when there is no backup.
    """
    newest = next(verified_backups(site, cluster, repository), None)
    names = [entry.name for entry in newest.databases] if newest else refuse_none(site, cluster, "any", repository)
    own = [name for name in names if name != "postgres"]
    if len(own) != 1:
        raise ConfigurationError("which database?", detail=some(names, most=20), hint="name one of them in the form")
    return own[0]


def backup_choices(site: Site, cluster: str, database: str, repository: str) -> tuple[Choice, ...]:
    """List the verified full backups of a repository that hold a database, newest first; RefusedError: none."""
    now = site.clock()
    found = tuple(
        Choice(dump.manifest.id, f"{dump.verdict}, {_age(now - dump.manifest.backup_time)} old")
        for dump in verified_dumps(site, cluster, database, repository)
    )
    return found or refuse_none(site, cluster, database, repository)


def table_choices(
    site: Site, cluster: str, database: str, backup_id: str | None, repository: str
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

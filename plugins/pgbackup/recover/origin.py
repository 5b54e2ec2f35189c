"""Where rows come from: the dump in a full backup, or a dump made of a side server that was recovered to a moment.

Whoever plans chooses an origin, whoever recovers opens it: behind that both are a dump and a description of it.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pgbackup.domain.errors import ConfigurationError, RefusedError, UnfitError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.target import Target
from pgbackup.recover.ahead import refuse_machine, space
from pgbackup.recover.dumps import PlainDump, choose_dump, fetched, near
from pgbackup.recover.planning import plan
from pgbackup.recover.side import Name, dumped_at, side_folder
from pgbackup.recover.sources import anywhere
from pgbackup.restore.fetch import describe_copy
from pgbackup.restore.rebuild import committed
from pgbackup.scratch import make_private


@dataclass(frozen=True)
class FromBackup:
    """A database's dump in a full backup. What ``repository`` does not have undamaged is read in the ``others``."""

    repository: str
    backup_id: str
    backup_time: datetime
    verdict: Verdict | None
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.backup_id


@dataclass(frozen=True)
class FromMoment:
    """A dump of a side server that is recovered first; ``needs`` and ``free`` are bytes of the spool."""

    recovery: RecoveryPlan
    needs: int
    free: int

    def __str__(self) -> str:
        return f"{self.recovery.cluster} at {self.recovery.target}"


Origin = FromBackup | FromMoment


@dataclass(frozen=True)
class Chosen:
    """An origin, and what is known of it before it is opened.

    ``manifest`` is the backup's, or the one of the last backup before the moment; ``entry`` is the database's in it.
    """

    origin: Origin
    manifest: Manifest
    entry: Database | None


def choose(
    site: Site,
    cluster: str,
    database: str,
    backup_id: str | None,
    target: Target | None,
    *,
    timeline: int | None,
    repository: str | None,
    even_rejected: bool,
) -> Chosen:
    """Choose a moment when there is a ``target``, else the dump in a full backup (default: the newest verified one).

    Raises RefusedError, with what can be reached, when it cannot be had; UnfitError when this machine is not up to it.
    """
    if target is None:
        if timeline is not None:
            raise ConfigurationError("a timeline goes with a moment", hint="--to, --lsn, --xid or --name")
        found = choose_dump(site, cluster, database, backup_id, repository=repository, even_rejected=even_rejected)
        made, there = found.manifest, found.repository
        others = () if repository else tuple(name for name in site.repositories if name != there)
        origin = FromBackup(there, made.id, made.backup_time, found.verdict, others)
        return Chosen(origin, made, found.entry)
    if backup_id is not None:
        raise ConfigurationError("a backup or a moment, not both", detail=f"{backup_id}, {target}", hint="name one")
    recovery = plan(site, cluster, target, timeline=timeline, repository=repository)
    last = refuse_machine(site, recovery, side_folder(site, cluster))
    make_private(site.spool)
    needs, free = space(recovery), shutil.disk_usage(site.spool).free
    if needs > free:
        raise UnfitError(
            f"{needs / 1e6:.0f} MB are needed in {site.spool}, {free / 1e6:.0f} MB are free",
            hint="free space there, or let paths.spool name another disk",
        )
    entry = next((one for one in last.databases if one.name == database), None)
    return Chosen(FromMoment(recovery, needs, free), last, entry)


@contextlib.contextmanager
def opened(site: Site, origin: Origin, database: str, table: Name | None = None) -> Iterator[PlainDump]:
    """Hold the dump of an origin; of a moment's, only ``table`` has rows. It is gone when the block ends."""
    if isinstance(origin, FromMoment):
        with dumped_at(site, origin.recovery, database, table) as dump:
            yield dump
        return
    cluster = BackupId.parse(origin.backup_id).cluster
    found = anywhere(
        site,
        (origin.repository, *origin.others),
        lambda store: choose_dump(site, cluster, database, origin.backup_id, repository=store.name, even_rejected=True),
    )
    with fetched(site, found, origin.others) as dump:
        yield dump


def find_table(site: Site, chosen: Chosen, database: str, present: Iterable[Name], table: str) -> Name:
    """Return a table by its dotted name, which is compared, never taken apart.

    Of a moment nobody knows the tables yet: it may be what any backup held, or what is ``present``. Raises RefusedError
    when nothing is known by that name.
    """
    if isinstance(chosen.origin, FromMoment):
        held: Iterable[Iterable[Name]] = itertools.chain([present], _held(site, chosen.origin.recovery, database))
        where = f"{database!r}, now or in any backup in {chosen.origin.recovery.repository}"
    else:
        held, where = [_names(chosen.entry)], f"{database!r} of {chosen.origin}"
    seen: set[Name] = set()
    same: set[Name] = set()
    for names in held:
        seen.update(names)
        same = {one for one in seen if ".".join(one) == table}
        if len(same) == 1:
            return same.pop()
    raise RefusedError(
        f"{len(same) or 'no'} tables {table!r} are in {where}",
        detail=near(table, map(".".join, seen)),
        hint="write schema.table, without quotes",
    )


def _held(site: Site, recovery: RecoveryPlan, database: str) -> Iterator[set[Name]]:
    """Yield which tables each backup of a cluster holds, newest first."""
    store = site.repositories[recovery.repository]
    for backup_id in sorted(committed(store), key=lambda one: one.stamp, reverse=True):
        if backup_id.cluster == recovery.cluster:
            with contextlib.suppress(RefusedError):  # damaged, under deletion
                manifest = describe_copy(site, store, backup_id).manifest
                for entry in manifest.databases:
                    if entry.name == database:
                        yield _names(entry)


def _names(entry: Database | None) -> set[Name]:
    return {(one.schema_name, one.name) for one in entry.tables} if entry else set()

"""Which dump a recovery takes, and its plain file for as long as it is needed."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from pgbackup.domain.errors import ConfigurationError, RefusedError, UnfitError
from pgbackup.domain.findings import some
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import HASH_VERSION, Content, Database, File, Manifest, Table
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.recovery import Step
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.programs import Programs, find_programs
from pgbackup.postgres.toc import Entry, table_texts
from pgbackup.recover.planning import fetch_rate
from pgbackup.recover.sources import anywhere, best, describe_anywhere
from pgbackup.restore.fetch import describe_copy, fetch_file, open_passphrase
from pgbackup.restore.holds import leased
from pgbackup.restore.reach import proof_of
from pgbackup.restore.rebuild import committed
from pgbackup.scratch import private_folder


@dataclass(frozen=True)
class Dump:
    """The dump of one database in one repository."""

    repository: str
    manifest: Manifest
    entry: Database
    verdict: Verdict | None

    @property
    def file(self) -> File:
        """The stored file."""
        return self.manifest.dump(self.entry)


@dataclass(frozen=True)
class PlainDump:
    """A dump that lies open on this machine: ``entry`` says what it holds, ``manifest`` of which server it is.

    ``steps`` are those that brought it here; ``notes`` are what to know of it.
    """

    manifest: Manifest
    entry: Database
    path: Path
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


def choose_dump(
    site: Site, cluster: str, database: str, backup_id: str | None, *, repository: str | None, even_rejected: bool
) -> Dump:
    """Return the dump of a database in a full backup: the named one, else the newest verified one.

    Without a ``repository`` it comes from the local one, or where that has none from the one of the others with the
    newest, then the quickest. Reads the repositories' own listings; works while the catalog is down. Raises
    RefusedError for a backup that is not there, does not hold the database, or was rejected (unless ``even_rejected``).
    """
    named = BackupId.parse(backup_id) if backup_id else None
    if named and (named.cluster, named.kind) != (cluster, Kind.FULL):
        raise ConfigurationError(f"{named} is no full backup of {cluster}", hint="`pgbackup list` shows which are")

    def ask(store: Store) -> Dump:
        if named is None:
            newest = next(verified_dumps(site, cluster, database, store.name), None)
            return newest or refuse_none(site, cluster, database, store.name)
        dump = _dump(site, named, database, store)
        if dump.verdict is Verdict.REJECTED and not even_rejected:
            raise RefusedError(f"{named} was rejected when it was verified", hint=f"see `pgbackup show {named}`")
        return dump

    def newest(dump: Dump) -> tuple[datetime, float]:
        return dump.manifest.backup_time, fetch_rate(site, cluster, dump.repository)

    wanted = f"holds {named}" if named else f"holds a verified backup of {database!r}"
    return best(site, repository, ask, newest, wanted=wanted)[0]


def _dump(site: Site, backup_id: BackupId, database: str, store: Store) -> Dump:
    manifest = describe_copy(site, store, backup_id).manifest
    return Dump(store.name, manifest, manifest.database(database), proof_of(store, backup_id))


def verified_dumps(site: Site, cluster: str, database: str, repository: str) -> Iterator[Dump]:
    """List the dumps of a database in the verified full backups of a repository, newest first."""
    for manifest in verified_backups(site, cluster, repository):
        with contextlib.suppress(RefusedError):  # without this database
            yield Dump(repository, manifest, manifest.database(database), Verdict.VERIFIED)


def verified_backups(site: Site, cluster: str, repository: str) -> Iterator[Manifest]:
    """List the full backups of a repository that were verified, there or before they were copied, newest first."""
    store = site.repositories[repository]
    for backup_id in _full_backups(store, cluster):
        if proof_of(store, backup_id) is Verdict.VERIFIED:
            with contextlib.suppress(RefusedError):  # damaged, or under deletion
                yield describe_copy(site, store, backup_id).manifest


def _full_backups(store: Store, cluster: str) -> list[BackupId]:
    found = [one for one in committed(store) if one.cluster == cluster and one.kind is Kind.FULL]
    return sorted(found, reverse=True)


def refuse_none(site: Site, cluster: str, database: str, repository: str) -> NoReturn:
    """Raise RefusedError: no verified dump of a database is there."""
    others = ", ".join(map(str, _full_backups(site.repositories[repository], cluster)[:3])) or "none"
    raise RefusedError(
        f"no verified backup of {database!r} is in {repository}",
        detail=f"full backups there: {others}",
        hint="name one with --backup, or verify it first",
    )


def fitting_programs(site: Site, connection: Connection, manifest: Manifest) -> Programs:
    """Return the programs of the server's major version; raises UnfitError when the dump is of a newer one."""
    here = describe.server(connection).version // 10000
    programs = find_programs(site.settings.paths.postgres_bin, major=here)
    needed = max(int(manifest.client_version.split(".")[0]), manifest.server.version // 10000)
    version = programs.major(site.runner, "pg_restore")
    if min(here, version) < needed:
        raise UnfitError(
            f"{manifest.id} is of PostgreSQL {needed}",
            detail=f"the server is {here}, pg_restore {version} ({programs.folder})",
            hint="recover into a server of that version or a newer one",
        )
    return programs


@contextlib.contextmanager
def fetched(site: Site, dump: Dump, others: Sequence[str]) -> Iterator[PlainDump]:
    """Bring the dump, checked and decrypted, into a private folder; it is gone when the block ends.

    Where its repository does not have it undamaged, it comes from one of the ``others``. Raises UnfitError when there
    is no space for it.
    """
    begun = time.monotonic()
    where = (dump.repository, *others)
    description = describe_anywhere(site, where, dump.manifest.id)
    held = leased(site, dump.repository, (dump.manifest.id,), f"recovery of {dump.entry.name}")
    with held, private_folder(site.spool / "recover") as folder:
        free, needed = shutil.disk_usage(folder).free, dump.file.plain_bytes
        if free < needed:
            raise UnfitError(
                "no space for the decrypted dump",
                detail=f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free in {folder.parent}",
                hint="free some, or let paths.spool name another disk",
            )

        def bring(store: Store) -> Path:
            passphrase = open_passphrase(site, store, description)
            return fetch_file(site, store, description, dump.file, passphrase, folder)

        path = anywhere(site, where, bring)
        step = Step("fetch and decrypt", dump.file.stored_bytes, time.monotonic() - begun)
        yield PlainDump(dump.manifest, dump.entry, path, (step,))


def content_of(dump: PlainDump, tree: Iterable[Entry], *, major: int) -> Content | None:
    """Return what a table with its partitions held, None where that was not counted.

    The hash is empty where a server of ``major`` version cannot be held to it.
    """
    texts, roles = {entry.text for entry in tree}, dump.manifest.roles
    leaves = [
        one for one in dump.entry.tables if one.kind == "r" and texts & table_texts(one.schema_name, one.name, roles)
    ]
    content = total(leaves)
    same = (dump.manifest.server.version // 10000, dump.manifest.hash_version) == (major, HASH_VERSION)
    return content if content is None or same else content.model_copy(update={"hash": ""})


def total(leaves: Sequence[Table]) -> Content | None:
    """Add up fingerprints, which are sums themselves; None where some were not taken."""
    found = [one.content for one in leaves if one.content is not None]
    if not leaves or len(found) < len(leaves):
        return None
    return Content(rows=sum(one.rows for one in found), hash=str(sum(int(one.hash) for one in found)))


def near(name: str, names: Iterable[str]) -> str:
    """Say which names somebody may have meant."""
    known = sorted(set(names))
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"near: {', '.join(found)}" if found else f"there are {some(known) or 'none'}"

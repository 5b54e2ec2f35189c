"""Which dump a recovery takes, and its plain file for as long as it is needed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.catalog.rebuild import committed
from pgbackup.domain.errors import ConfigurationError, RefusedError, UnfitError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Database, File, Manifest
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.ports import Site
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.programs import Programs, find_programs
from pgbackup.restore.fetch import describe_copy, fetch_file, open_passphrase
from pgbackup.restore.holds import leased
from pgbackup.restore.reach import verdict_of
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


def choose_dump(
    site: Site, cluster: str, database: str, backup_id: str | None, *, repository: str, even_rejected: bool
) -> Dump:
    """Return the dump of a database in a full backup: the named one, else the newest verified one.

    Reads the repository's own listing; works while the catalog is down. Raises RefusedError for a backup that is not
    there, does not hold the database, or was rejected (unless ``even_rejected``).
    """
    if repository not in site.repositories:
        raise ConfigurationError(f"no repository {repository!r}", detail=", ".join(site.repositories))
    if backup_id is None:
        return _newest(site, cluster, database, repository)
    named = BackupId.parse(backup_id)
    if (named.cluster, named.kind) != (cluster, Kind.FULL):
        raise ConfigurationError(f"{named} is no full backup of {cluster}", hint="`pgbackup list` shows which are")
    dump = _dump(site, named, database, repository)
    if dump.verdict is Verdict.REJECTED and not even_rejected:
        raise RefusedError(f"{named} was rejected when it was verified", hint=f"see `pgbackup show {named}`")
    return dump


def _dump(site: Site, backup_id: BackupId, database: str, repository: str) -> Dump:
    store = site.repositories[repository]
    manifest = describe_copy(store, backup_id).manifest
    return Dump(repository, manifest, manifest.database(database), verdict_of(store, backup_id))


def _newest(site: Site, cluster: str, database: str, repository: str) -> Dump:
    store = site.repositories[repository]
    full = [one for one in committed(store) if one.cluster == cluster and one.kind is Kind.FULL]
    for backup_id in sorted(full, reverse=True):
        if verdict_of(store, backup_id) is Verdict.VERIFIED:
            with contextlib.suppress(RefusedError):  # damaged, under deletion, or without this database: an older one
                return _dump(site, backup_id, database, repository)
    others = ", ".join(map(str, sorted(full, reverse=True)[:3])) or "none"
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
def fetched(site: Site, dump: Dump) -> Iterator[Path]:
    """Bring the dump, checked and decrypted, into a private folder; it is gone when the block ends.

    Raises UnfitError when there is no space for it.
    """
    store = site.repositories[dump.repository]
    description = describe_copy(store, BackupId.parse(dump.manifest.id))
    held = leased(site, (dump.manifest.id,), f"recovery of {dump.entry.name}")
    with held, private_folder(site.spool / "recover") as folder:
        free, needed = shutil.disk_usage(folder).free, dump.file.plain_bytes
        if free < needed:
            raise UnfitError(
                "no space for the decrypted dump",
                detail=f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free in {folder.parent}",
                hint="free some, or let paths.spool name another disk",
            )
        yield fetch_file(site, store, description, dump.file, open_passphrase(site, store, description), folder)

"""Restore a full backup into a throw-away server, and tell what the backup did wrong from what the server cannot do."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from pgbackup.domain.errors import ProgramFailed, UnfitError
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.postgres import dump
from pgbackup.postgres.connection import connect, program_access
from pgbackup.postgres.programs import Programs, find_programs
from pgbackup.postgres.throwaway import ThrowAwayServer

log = logging.getLogger(__name__)

# What a server says when the machine, not the backup, is at fault: then nobody can judge.
_INCAPABLE = re.compile(
    r"extension \"[^\"]+\" is not available|could not open extension control file|could not access file|"
    r"could not load library|must be loaded via \"?shared_preload_libraries|"
    r"invalid L[CO][_A-Z]* ?(locale )?name|invalid locale name|is not supported in this build|"
    r"not supported by this build|"
    r"could not create locale|could not open collator|No space left on device|out of shared memory|out of memory|"
    r"could not resize shared memory|server closed the connection|terminating connection|the database system is"
)
_VIOLATION = "violates foreign key constraint"
_FOREIGN_KEY = re.compile(rf'{_VIOLATION} "(.*?)"(?:\n|$)', re.DOTALL)
_NO_EGRESS = re.compile(r"could not connect to server|could not establish connection")
_ERROR = re.compile(r"^pg_restore: error: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Restored:
    """How the restore of one database went: errors of the backup, and foreign keys that its rows violate."""

    database: str
    errors: tuple[str, ...]
    violated_foreign_keys: tuple[str, ...]


def server_for(site: Site, manifest: Manifest, folder: Path) -> ThrowAwayServer:
    """Prepare (not create) a throw-away server fit for a backup; raises UnfitError when the programs are too old."""
    needed = max(manifest.server.version // 10000, int(manifest.client_version.split(".")[0]))
    programs = find_programs(site.settings.paths.postgres_bin, major=needed)
    version = _server_major(programs, site)
    if version < needed:
        raise UnfitError(
            f"PostgreSQL {version} cannot restore this backup, which needs {needed}",
            detail=f"programs in {programs.folder}",
            hint=f"install postgresql-{needed} where backups are verified, or set paths.postgres_bin",
        )
    return ThrowAwayServer(folder, programs, site.runner, manifest.bootstrap_superuser, version)


def restore_globals(parameters: ConnectionParameters, text: str, bootstrap: str) -> None:
    """Make the roles, and tablespaces that stay inside the server; raises psycopg.Error for what it refuses."""
    with connect(parameters, "template1", pinned=False) as connection:
        for statement in dump.statements(dump.globals_for_isolation(text, bootstrap)):
            connection.execute(statement)
        for statement in dump.tablespaces_in_place(text):
            connection.execute(statement)


def restore_database(
    site: Site,
    manifest: Manifest,
    entry: Database,
    archive: Path,
    server: ThrowAwayServer,
    parameters: ConnectionParameters,
    *,
    jobs: int,
) -> Restored:
    """Create one database from its dump; raises UnfitError when this machine cannot hold it."""
    if entry.name == "postgres":
        with connect(parameters, "template1") as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(entry.name)))
    with program_access(parameters) as access:
        command = dump.restore_database(server.programs, access, archive, jobs=jobs)
        try:
            site.runner.run(command)
        except ProgramFailed as error:
            return judge_restore(manifest, entry.name, error)
    return Restored(entry.name, (), ())


def judge_restore(manifest: Manifest, database: str, error: ProgramFailed) -> Restored:
    """Tell what a failed pg_restore says about the backup; raises UnfitError when it says it about the server.

    That a foreign server was not reached says nothing: the throw-away server has no network.
    """
    if error.by_signal:
        raise error
    if _INCAPABLE.search(error.stderr):
        raise UnfitError(
            f"this machine cannot restore {database!r} of {manifest.id}",
            detail=error.detail,
            hint="install the missing extension or locale, or free space, where the backup is restored",
        )
    errors = _ERROR.findall(error.stderr) or [error.message]
    violated = tuple(_FOREIGN_KEY.findall(error.stderr))
    own = tuple(text for text in errors if _VIOLATION not in text and not _NO_EGRESS.search(text))
    return Restored(database, own, violated)


def _server_major(programs: Programs, site: Site) -> int:
    try:
        return programs.major(site.runner, "postgres")
    except UnfitError as error:
        raise UnfitError(
            "the PostgreSQL server programs do not run here",
            detail=error.detail,
            hint="a verification starts a throw-away server: install postgresql, not only its clients",
        ) from None

"""The protected server as a capture sees it: its description, the programs that fit it, the ways to reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pgbackup.domain.errors import UnfitError
from pgbackup.domain.manifest import Server
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Cluster
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection, ProgramAccess, connect, program_access
from pgbackup.postgres.dump import compression_for
from pgbackup.postgres.programs import Programs, find_programs


@dataclass(frozen=True)
class Source:
    """An open source: ``connection`` is an ordinary one, ``access`` is for client programs."""

    settings: Cluster
    parameters: ConnectionParameters
    server: Server
    programs: Programs
    client_version: str
    access: ProgramAccess
    connection: Connection

    @property
    def database(self) -> str:
        """The database for what belongs to no database: globals, replication."""
        return self.parameters.keywords.get("dbname", "postgres")

    @property
    def compression(self) -> str:
        """The value of pg_dump's --compress."""
        return compression_for(self.settings.full_backup.compression, self.client_version)


@contextlib.contextmanager
def opened_source(site: Site, cluster: str) -> Iterator[Source]:
    """Connect to a cluster; raises UnfitError for a standby, and for client programs older than the server."""
    settings, parameters = site.settings.cluster(cluster), site.connections(cluster)
    with connect(parameters) as connection, program_access(parameters) as access:
        refuse_standby(connection)
        server = describe.server(connection)
        programs, version = fitting_programs(site, server)
        yield Source(settings, parameters, server, programs, version, access, connection)


def refuse_standby(connection: Connection) -> None:
    """Raise UnfitError for a standby: it can neither write the records nor switch the WAL that prove a backup."""
    row = connection.execute(
        "SELECT pg_catalog.pg_is_in_recovery(),"
        " (SELECT sender_host || ':' || sender_port FROM pg_catalog.pg_stat_wal_receiver)"
    ).fetchone()
    if row is None or not row[0]:
        return
    raise UnfitError(
        "the server is a standby: backups are taken from the primary",
        detail=f"it follows {row[1]}" if row[1] else None,
        hint="let the connection name the primary, or all hosts together with target_session_attrs=primary",
    )


def fitting_programs(site: Site, server: Server) -> tuple[Programs, str]:
    """Return the client programs and their version; raises UnfitError when they are older than the server."""
    programs = find_programs(site.settings.paths.postgres_bin, major=server.version // 10000)
    version = programs.version(site.runner)
    if int(version.split(".")[0]) < server.version // 10000:
        raise UnfitError(
            f"pg_dump {version} is older than the server ({server.version_text})",
            detail=f"programs in {programs.folder}",
            hint=f"install postgresql-client-{server.version // 10000}, or set paths.postgres_bin",
        )
    return programs, version

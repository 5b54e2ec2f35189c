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


@contextlib.contextmanager
def opened_source(site: Site, cluster: str) -> Iterator[Source]:
    """Connect to a cluster; raises UnfitError when the client programs here are older than its server."""
    settings, parameters = site.settings.cluster(cluster), site.connections(cluster)
    with connect(parameters) as connection, program_access(parameters) as access:
        server = describe.server(connection)
        programs, version = fitting_programs(site, server)
        yield Source(settings, parameters, server, programs, version, access, connection)


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

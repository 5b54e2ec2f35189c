"""Look into a directory that a recovery made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from pgbackup.postgres.programs import Programs
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover import Recovered
from pgbackup.stream import Processes
from tests.support.source import Source


@contextlib.contextmanager
def reading(recovered: Recovered, source: Source, database: str) -> Iterator[psycopg.Connection[tuple]]:
    """Start a server of the source's programs on a recovered directory while the block runs."""
    place = recovered.folder.with_name(f"{recovered.folder.name}.read")
    place.mkdir()
    (place / "data").symlink_to(recovered.folder)
    server = ThrowAwayServer(place, Programs(source.bin), Processes(), "postgres", source.major)
    with server.running() as parameters, psycopg.connect(**{**parameters.keywords, "dbname": database}) as connection:
        yield connection

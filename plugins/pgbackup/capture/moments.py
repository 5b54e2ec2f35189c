"""What every database looked like at one snapshot, all snapshots within one unchanged state of the globals."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pgbackup.capture.source import Source
from pgbackup.domain.errors import BusyError
from pgbackup.domain.manifest import Content, Database, Table
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Runner
from pgbackup.domain.settings import Cluster
from pgbackup.postgres import describe, dump
from pgbackup.postgres.connection import connect
from pgbackup.postgres.snapshot import Snapshot, locked_snapshot

log = logging.getLogger(__name__)

_GLOBALS_TRIES = 5


@dataclass(frozen=True)
class Moment:
    """One database at its snapshot, described at once: what is stored without a version changes while a dump runs."""

    database: str
    snapshot: Snapshot
    description: dict[str, Any]
    notes: tuple[str, ...]

    def entry(
        self,
        *,
        file: str | None,
        layout: Literal["custom", "directory"] | None,
        tables: tuple[Table, ...],
        large_objects: Content | None,
    ) -> Database:
        """Return the manifest's entry."""
        return Database(
            **self.description,
            name=self.database,
            file=file,
            format=layout,
            snapshot=self.snapshot.xacts,
            snapshot_lsn=self.snapshot.lsn,
            tables=tables,
            large_objects=large_objects,
        )


@dataclass(frozen=True)
class Moments:
    """All databases' moments, and the globals that fit them."""

    databases: tuple[Moment, ...]
    globals: bytes
    roles: tuple[str, ...]
    bootstrap_superuser: str


@contextlib.contextmanager
def all_moments(source: Source, runner: Runner) -> Iterator[Moments]:
    """Lock and snapshot every database within seconds, hold them until the block ends (docs/decisions/0001).

    Raises BusyError when roles or tablespaces don't stay the same for that long.
    """
    excluded = source.settings.exclude_databases
    names = [name for name in describe.databases(source.connection) if name not in excluded]
    for _ in range(_GLOBALS_TRIES):
        with contextlib.ExitStack() as held:
            before = _globals(source, runner)
            moments = tuple(held.enter_context(_moment(source.parameters, source.settings, name)) for name in names)
            roles, bootstrap = describe.roles(source.connection)
            after = _globals(source, runner)
            if dump.same_globals(before, after):
                yield Moments(moments, after, roles, bootstrap)
                return
        log.warning("roles or tablespaces changed while the snapshots were taken: once more")
    raise BusyError("roles or tablespaces keep changing", hint="what creates and drops roles this fast?")


def _globals(source: Source, runner: Runner) -> bytes:
    output, _ = runner.run(dump.dump_globals(source.programs, source.access, source.database))
    return output


@contextlib.contextmanager
def _moment(parameters: ConnectionParameters, settings: Cluster, database: str) -> Iterator[Moment]:
    with connect(parameters, database) as connection:
        sequences = describe.sequences(connection)  # before the snapshot: a restored one may not be behind these
    with locked_snapshot(parameters, database, lock_timeout=settings.full_backup.lock_timeout) as snapshot:
        connection = snapshot.connection
        description = {**describe.database(connection), "sequences": sequences}
        notes = tuple(f"{database}: {row['note']}" for row in describe.rows(connection, "not_included"))
        yield Moment(database, snapshot, description, notes)

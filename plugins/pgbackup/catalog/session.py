"""Sessions with the catalog's database; its schema is brought up to date when the first one opens."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from pgbackup.domain.errors import BusyError, RefusedError, UnavailableError, UnfitError

Connect = Callable[[], "psycopg.Connection[Any]"]
_LINGERS = 3.0  # seconds that the server may take to notice that a killed process is gone
_MIGRATION_LOCK = 0x70676261  # any number that nobody else uses in the catalog's database


class Sessions:
    """What every part of the catalog stands on. ``connect`` opens a new autocommit connection to its database."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._ready = False

    def migrate(self) -> tuple[str, ...]:
        """Bring the schema up to date; return the names of the migrations that ran."""
        applied: list[str] = []
        with self._session() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_version ("
                " version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            row = connection.execute("SELECT coalesce(max(version), 0) AS version FROM schema_version").fetchone()
            current = row["version"] if row else 0
            known = migrations()
            if current > max(known):
                raise RefusedError(
                    f"the catalog has version {current}, this program knows up to {max(known)}",
                    hint="a newer version of this package uses the same catalog: update this one",
                )
            for version, (name, text) in sorted(known.items()):
                if version > current:
                    connection.execute(text)
                    connection.execute("INSERT INTO schema_version (version) VALUES (%s)", (version,))
                    applied.append(name)
        return tuple(applied)

    @contextlib.contextmanager
    def exclusive(self, cluster: str, *, purpose: str) -> Iterator[None]:
        """Hold the cluster by an advisory lock of a session of ours: it ends with the process, however that ends."""
        self._migrate_once()
        with self._connect() as connection:  # errors of the block are the caller's own, not the catalog's
            deadline = time.monotonic() + _LINGERS
            while not (held := _try_lock(connection, cluster)) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not held:
                raise BusyError(
                    f"cannot start the {purpose} of {cluster}: another one is running",
                    hint="wait for it to end; `pgbackup list` shows it",
                )
            try:
                yield
            finally:  # at once: the server notices the end of a session only a moment after it
                with contextlib.suppress(psycopg.Error):
                    connection.execute("SELECT pg_advisory_unlock_all()")

    def _write(self, statement: str, arguments: Sequence[object] | Mapping[str, object]) -> None:
        with self._transaction() as connection:
            connection.execute(statement, arguments)

    def _migrate_once(self) -> None:
        if not self._ready:
            self.migrate()
            self._ready = True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        self._migrate_once()
        with self._session() as connection:
            yield connection

    @contextlib.contextmanager
    def _session(self) -> Iterator[psycopg.Connection[DictRow]]:
        with _explained(), self._connect() as connection:
            connection.row_factory = dict_row
            connection.execute("SET timezone = 'UTC'")  # moments are printed as they come, whatever the server's zone
            yield connection


def _try_lock(connection: psycopg.Connection[Any], cluster: str) -> bool:
    with _explained():
        row = connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"cluster {cluster}",)
        ).fetchone()
    return bool(row and row[0])


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise UnavailableError(
            "the catalog does not answer", detail=str(error).strip(), hint="is its server running?"
        ) from None
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise UnavailableError(
            "the catalog is read-only", detail=str(error).strip(), hint="is its server a standby since a failover?"
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise UnfitError(
            "no right to use the catalog",
            detail=str(error).strip(),
            hint="its database must be owned by the role that connects to it",
        ) from None


def migrations() -> dict[int, tuple[str, str]]:
    """Return the numbered migrations: version -> (name, SQL)."""
    found: dict[int, tuple[str, str]] = {}
    for entry in resources.files("pgbackup.catalog").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found[int(match[1])] = (entry.name, entry.read_text(encoding="utf-8"))
    return found

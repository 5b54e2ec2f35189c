"""What a server and its databases are made of: asked for the manifest, and asked again after a restore."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from pgbackup.domain.manifest import (
    Content,
    Extension,
    ForeignKey,
    MaterializedView,
    ObjectClass,
    Sequence,
    Server,
)
from pgbackup.postgres.connection import Connection


@functools.cache
def query(name: str) -> sql.SQL:
    """Return one of the .sql files."""
    text = resources.files("pgbackup.postgres").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    return sql.SQL(text)


def rows(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Run one of the .sql files."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(name)).fetchall()


@dataclass(frozen=True)
class TableSource:
    """A table as its content query needs it: columns in canonical order, an extension's condition, its size."""

    schema_name: str
    name: str
    kind: str
    unlogged: bool
    columns: tuple[str, ...]
    condition: str
    bytes: int

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema_name, self.name)


def server(connection: Connection) -> Server:
    """Describe the server."""
    return Server(**rows(connection, "server")[0])


def summarizes_wal(connection: Connection) -> bool:
    """Tell whether the server keeps WAL summaries (PostgreSQL 17), which block incrementals need."""
    row = connection.execute("SELECT pg_catalog.current_setting('summarize_wal', true) = 'on'").fetchone()
    return bool(row and row[0])


def database(connection: Connection) -> dict[str, Any]:
    """Describe the connected database: what a manifest's entry says of it beside its tables, sequences and snapshot."""
    row = rows(connection, "database")[0]
    return {
        **row,
        "settings": tuple(row["settings"]),
        "foreign_keys": foreign_keys(connection),
        "materialized_views": materialized_views(connection),
        "extensions": extensions(connection),
        "objects": objects(connection),
        "invalid_indexes": invalid_indexes(connection),
    }


def databases(connection: Connection) -> tuple[str, ...]:
    """List the databases that a full backup holds."""
    return tuple(row["datname"] for row in rows(connection, "databases"))


def roles(connection: Connection) -> tuple[tuple[str, ...], str]:
    """Return all roles, and the name of the bootstrap superuser."""
    found = rows(connection, "roles")
    return tuple(row["name"] for row in found), next(row["name"] for row in found if row["bootstrap"])


def tables(connection: Connection) -> tuple[TableSource, ...]:
    """List the tables whose rows a dump holds."""
    return tuple(TableSource(**{**row, "columns": tuple(row["columns"])}) for row in rows(connection, "tables"))


def partitions(connection: Connection, schema: str, name: str) -> frozenset[tuple[str, str]]:
    """Return schema and name of a table and of its partitions, nothing when there is no such table."""
    return frozenset(connection.execute(query("partitions"), {"schema": schema, "name": name}).fetchall())


def sequences(connection: Connection) -> tuple[Sequence, ...]:
    """List the sequences with their last values."""
    return tuple(Sequence(**row) for row in rows(connection, "sequences"))


def foreign_keys(connection: Connection) -> tuple[ForeignKey, ...]:
    """List the foreign keys."""
    return tuple(ForeignKey(**row) for row in rows(connection, "foreign_keys"))


def materialized_views(connection: Connection) -> tuple[MaterializedView, ...]:
    """List the materialized views."""
    return tuple(MaterializedView(**row) for row in rows(connection, "materialized_views"))


def extensions(connection: Connection) -> tuple[Extension, ...]:
    """List the installed extensions."""
    return tuple(Extension(**row) for row in rows(connection, "extensions"))


def objects(connection: Connection) -> dict[str, ObjectClass]:
    """Count and hash all objects by class."""
    return {row["name"]: ObjectClass(count=row["count"], hash=row["hash"]) for row in rows(connection, "objects")}


def invalid_indexes(connection: Connection) -> tuple[str, ...]:
    """List indexes that the server does not use."""
    return tuple(row["name"] for row in rows(connection, "invalid_indexes"))


def other_collations(connection: Connection) -> tuple[str, ...]:
    """List collations that sort indexes here by another version than the one they were built with."""
    return tuple(row["difference"] for row in rows(connection, "collations"))


def large_objects(connection: Connection) -> Content:
    """Fingerprint the large objects."""
    row = rows(connection, "large_objects")[0]
    return Content(rows=row["rows"], hash=str(row["hash"]))


def content(connection: Connection, table: TableSource) -> Content:
    """Fingerprint one table as a backup does."""
    return fingerprint(connection, table.identifier, table.columns, table.condition)


def fingerprint(connection: Connection, table: sql.Identifier, names: Iterable[str], condition: str = "") -> Content:
    """Fingerprint a table: its rows, and the sum of their hashes, which no order of rows changes.

    Every column is named, in canonical order: ``t::text`` would read a column called t, and inherited columns move.
    """
    # A row of no columns still is a row: its text is "()".
    columns = sql.SQL(", ").join(sql.SQL("a.{}").format(sql.Identifier(column)) for column in names)
    statement = sql.SQL(
        'SELECT count(*), coalesce(sum(pg_catalog.hashtextextended(ROW({})::text COLLATE "C", 0)), 0)::text'
        " FROM ONLY {} AS a {}"
    ).format(columns, table, sql.SQL(condition))
    row = connection.execute(statement).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has a row
    return Content(rows=row[0], hash=row[1])

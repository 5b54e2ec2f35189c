"""A database made beside another from its dump, under a name of its own: created, given its properties, named.

What recovery made or renamed carries a comment that begins with MARK, as long as nobody may take it for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from pgbackup.domain.errors import BusyError, RefusedError
from pgbackup.postgres import dump
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.describe import query, rows
from pgbackup.postgres.toc import Archive

MARK = "pgbackup: "
_LONGEST = 63  # bytes of a name
_HEADER = re.compile(r"DATABASE - |DATABASE PROPERTIES - |(ACL|COMMENT|SECURITY LABEL) - DATABASE ")
_NAME = r'(?:"(?:[^"]|"")*"|\w+)'
_OF_DATABASE = re.compile(
    rf"((?:CREATE|ALTER|COMMENT ON) DATABASE |ALTER ROLE {_NAME} IN DATABASE |(?:GRANT|REVOKE) [A-Z, ]+ ON DATABASE |"
    rf"SECURITY LABEL FOR {_NAME} ON DATABASE ){_NAME}"
)
_AROUND = re.compile(r"SET client_encoding |(SET|RESET) SESSION AUTHORIZATION")


@dataclass(frozen=True)
class Header:
    """The statements that make a database, and that give it what it had; bytes in the dump's encoding."""

    create: tuple[bytes, ...]
    properties: tuple[bytes, ...]


def stamped(name: str, word: str, moment: datetime) -> str:
    """Return ``<name>_<word>_<stamp>``, the name cut so that all of it fits PostgreSQL's 63 bytes.

    >>> stamped("streamflix", "before", datetime(2026, 1, 31, 2, tzinfo=UTC))
    'streamflix_before_20260131_020000'
    """
    ending = f"_{word}_{moment.astimezone(UTC):%Y%m%d_%H%M%S}"
    return name.encode()[: _LONGEST - len(ending)].decode(errors="ignore") + ending


def free_name(connection: Connection, database: str, word: str, moment: datetime) -> str:
    """Return a stamped name that no database has: of this moment, or of the first free one after it."""
    while exists(connection, name := stamped(database, word, moment)):
        moment += timedelta(seconds=1)
    return name


def unfinished_name(connection: Connection, database: str, moment: datetime) -> str:
    """Return the name of a database while it is restored: plain letters, whatever the encoding of its dump."""
    plain = re.sub(r"[^A-Za-z0-9]", "_", database)
    return free_name(connection, f"restoring_{plain}"[:40], "at", moment)


def read_header(archive: Archive, name: str) -> Header:
    """Return how a dump's database is made under another, plain name.

    Where the old name has a newline pg_restore ends behind the creation, because it cannot write a \\connect: what is
    lost then (settings, grants, comment) is found missing when the database is compared.
    """
    chosen = [entry for entry in archive.entries if _HEADER.match(entry.text)]
    text = archive.text(chosen, "--create", ok=frozenset({0, 1}))
    found = list(_renamed(text.decode("latin-1"), name))
    creation = [one for one in found if one.startswith("CREATE DATABASE ")]
    if len(creation) != 1:
        raise RefusedError("the dump does not say how its database was made", hint="recover from another copy")
    encoding = [one for one in found if one.startswith("SET client_encoding ")][:1]
    rest = [one for one in found if one not in {*creation, *encoding}]
    return Header(_bytes(encoding + creation), _bytes(encoding + rest))


def _renamed(text: str, name: str) -> Iterator[str]:
    for statement in dump.statements(text):
        if _OF_DATABASE.match(statement):
            yield _OF_DATABASE.sub(lambda match: match[1] + f'"{name}"', statement, count=1)
        elif _AROUND.match(statement):
            yield statement


def _bytes(statements: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(one.encode("latin-1") for one in statements)


def create(connection: Connection, header: Header, name: str, note: str) -> None:
    """Create the database, marked as ours; nobody else may connect to it yet."""
    run(connection, header.create)
    connection.execute(comment_on(name, MARK + note))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))


def give_properties(connection: Connection, header: Header, name: str) -> None:
    """Give it owner, comment, settings and grants; they were dumped as what differs from a new database's.

    From now on it is known as ours by its name alone: its comment is the source's, and is compared.
    """
    with connection.transaction():
        connection.execute(comment_on(name, None))
        connection.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(sql.Identifier(name)))
        run(connection, header.properties)


def publish(connection: Connection, unfinished: str, name: str) -> None:
    """Give it its name; raises BusyError when somebody is connected to it."""
    try:
        connection.execute(rename(unfinished, name))
    except psycopg.errors.ObjectInUse as error:
        raise BusyError(
            f"{unfinished} is complete and cannot be renamed: somebody is connected to it",
            detail=str(error).strip(),
            hint=rename(unfinished, name).as_string(),
        ) from None


def run(connection: Connection, statements: Iterable[bytes]) -> None:
    """Execute what a dump says, in its encoding, and return to ours."""
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            connection.execute("SET client_encoding = 'UTF8'")


def comment_on(database: str, text: str | None) -> sql.Composed:
    """Comment on a database."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(text))


def rename(database: str, name: str) -> sql.Composed:
    """Rename a database."""
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(database), sql.Identifier(name))


def exists(connection: Connection, database: str) -> bool:
    """Tell whether a database is there."""
    found = connection.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", (database,)).fetchone()
    return found is not None


@dataclass(frozen=True)
class Leftover:
    """What a recovery made or set aside; ``sessions`` are connected to it, the statement ``drop`` drops it."""

    name: str
    comment: str
    bytes: int
    sessions: int
    drop: str


def leftovers(connection: Connection) -> tuple[Leftover, ...]:
    """List the databases that carry our mark, or an unfinished one's name."""
    return tuple(
        Leftover(**row, drop=sql.SQL("DROP DATABASE {}").format(sql.Identifier(row["name"])).as_string())
        for row in rows(connection, "leftovers")
    )


def missing(connection: Connection, owners: Iterable[str], extensions: Iterable[str]) -> tuple[str, ...]:
    """List what this role and this server lack to make a database with objects of these owners and extensions."""
    values = {"owners": list(owners), "extensions": list(extensions)}
    return tuple(row[0] for row in connection.execute(query("missing_rights"), values).fetchall())


def leftover_tables(connection: Connection) -> tuple[Leftover, ...]:
    """List the tables of a database that carry our mark."""
    return tuple(
        Leftover(
            name=sql.Identifier(row["schema_name"], row["name"]).as_string(),
            comment=row["comment"],
            bytes=row["bytes"],
            sessions=0,
            drop=sql.SQL("DROP TABLE {}").format(sql.Identifier(row["schema_name"], row["name"])).as_string(),
        )
        for row in rows(connection, "leftover_tables")
    )

"""What a dump that somebody else made says of itself: its header, and what its definitions name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from psycopg import sql

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.manifest import Database, Extension, Table
from pgbackup.domain.ports import Runner
from pgbackup.postgres import dump
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.rows import unquoted
from pgbackup.postgres.toc import read_archive

_MAGIC = b"PGDMP"
_CUSTOM = 1
_OLDEST = (1, 10)  # PostgreSQL 7.4; the versions of the server and of pg_dump are in the header since then
_COMPRESSION_BY_NAME = (1, 15)
_LONGEST = 1 << 16

_NAME = r'(?:"(?:[^"]|"")*"|\w+)'
_ENTRY = re.compile(
    r"^-- Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>.*); Owner: (?P<owner>.*)$", re.MULTILINE
)
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_CREATE_DATABASE = re.compile(rf"CREATE DATABASE {_NAME} WITH ")
_OPTION = re.compile(r"(\w+) = '((?:[^']|'')*)'|(\w+) = (\w+)")
_CREATE_TABLE = re.compile(rf"CREATE (UNLOGGED )?TABLE ({_NAME})\.({_NAME})\s")
_PARTITIONED = re.compile(r"\)\s*PARTITION BY [A-Z]+ \(")
_CREATE_EXTENSION = re.compile(rf"CREATE EXTENSION IF NOT EXISTS ({_NAME})")
_ROLES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .* (?:TO|FROM) ({_NAME})(?: WITH GRANT OPTION)?;$",
        rf"^ALTER DEFAULT PRIVILEGES FOR ROLE ({_NAME}) ",
        rf"^SET SESSION AUTHORIZATION ({_NAME});$",
        rf"^ALTER ROLE ({_NAME}) IN DATABASE ",
        rf"^CREATE USER MAPPING FOR ({_NAME}) SERVER ",
        rf"^CREATE POLICY {_NAME} ON {_NAME}\.{_NAME}(?: AS \w+)?(?: FOR \w+)? TO ({_NAME}(?:, {_NAME})*)(?= |;)",
    )
)
_NAMING_ROLES = frozenset({"ACL", "DEFAULT ACL", "DATABASE PROPERTIES", "USER MAPPING", "POLICY"})
_OF_SUPERUSERS = frozenset({"EVENT TRIGGER", "FOREIGN DATA WRAPPER"})
_CREATE_ROLE = re.compile(rf"CREATE ROLE ({_NAME})")
_CONNECT = re.compile(r"\\connect ")
_INTRODUCTION = "-- Roles that an adopted dump names. Passwords, attributes and memberships did not come with it.\n"
_SUPERUSER = re.compile(rf"ALTER ROLE ({_NAME}) WITH SUPERUSER ")


@dataclass(frozen=True)
class Header:
    """``made_at`` is when pg_dump began: the wall clock of the machine that it ran on, taken for UTC."""

    made_at: datetime
    database: str
    server_version: str
    client_version: str

    @property
    def version(self) -> int:
        """The server's version as a number, such as 160004."""
        first, second = (int(number or 0) for number in re.findall(r"\d+", f"{self.server_version}.0")[:2])
        return first * 10000 + second * (1 if first >= 10 else 100)


@dataclass(frozen=True)
class Named:
    """What the definitions of a dump name. ``superusers`` own what nobody else may own."""

    database: Database
    roles: frozenset[str]
    superusers: frozenset[str]
    without_rows: tuple[str, ...]


@dataclass(frozen=True)
class Globals:
    """The roles that a dump of the globals makes.

    ``bootstrap`` is the superuser that the server began with; ``complete``: the dump was made by pg_dumpall.
    """

    roles: frozenset[str]
    bootstrap: str
    text: bytes
    complete: bool = True


def read_header(path: Path, name: str) -> Header:
    """Read what stands before the table of contents; raises RefusedError for what pg_dump -F c did not write.

    ``name`` is what people know the file by.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise RefusedError(
                f"{name} is not a dump in pg_dump's custom format",
                hint="plain SQL, tar and directories cannot be adopted: restore it, and take a backup of that",
            )
        try:
            return _Fields(file).header()
        except (ValueError, IndexError) as error:
            raise RefusedError(f"the header of {name} is damaged or cut short", detail=str(error)) from None


class _Fields:
    """The header's fields: integers with a byte for the sign, strings with their length before them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._version = (self._byte(), self._byte())
        if self._version < _OLDEST:
            raise ValueError(f"format {self._version[0]}.{self._version[1]}")
        self._byte()  # the revision
        self._width = self._byte()
        self._byte()  # the width of offsets
        if self._byte() != _CUSTOM:
            raise ValueError("not the custom format")

    def header(self) -> Header:
        if self._version >= _COMPRESSION_BY_NAME:
            self._byte()
        else:
            self._integer()
        second, minute, hour, day, month, year, _ = (self._integer() for _ in range(7))
        moment = datetime(1900 + year, 1 + month, day, hour, minute, min(second, 59), tzinfo=UTC)
        database, server, client = (self._string() for _ in range(3))
        return Header(moment, database, server, client)

    def _byte(self) -> int:
        return self._file.read(1)[0]

    def _integer(self) -> int:
        sign = self._byte()
        value = int.from_bytes(self._exactly(self._width), "little")
        return -value if sign else value

    def _string(self) -> str:
        length = self._integer()
        if not 0 <= length < _LONGEST:
            raise ValueError(f"a text of {length} bytes")
        return self._exactly(length).decode()

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("it ends early")
        return data


def read_named(runner: Runner, programs: Programs, path: Path, name: str) -> Named:
    """Read the definitions of a dump; ``name`` is its database's."""
    command = programs.command(
        "pg_restore", "--create", "--section=pre-data", "--section=post-data", "--file=-", str(path)
    )
    output, _ = runner.run(command)
    match = _ENCODING.search(output)
    encoding = match[1].decode() if match else "UTF8"
    text = output.decode("utf-8" if encoding == "UTF8" else "latin-1", errors="surrogateescape")
    found = _Definitions()
    for entry, body in _blocks(text):
        found.take(entry, body)
    entries = read_archive(runner, programs, path, encoding).entries
    filled = {one.text.removeprefix("TABLE DATA ") for one in entries if one.text.startswith("TABLE DATA ")}
    return Named(
        database=found.database(name),
        roles=frozenset(one for one in found.roles if one not in {"", "-"} and not one.startswith("pg_")),
        superusers=frozenset(found.superusers),
        without_rows=tuple(
            f"{table.schema_name}.{table.name}"
            for place, table in found.tables
            if table.kind == "r" and place not in filled
        ),
    )


def _blocks(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield each entry's header, and the SQL that follows it."""
    entries = [*_ENTRY.finditer(text)]
    ends = [*(one.start() for one in entries[1:]), len(text)]
    for entry, end in zip(entries, ends, strict=True):
        yield entry, text[entry.end() : end]


class _Definitions:
    """What was read so far."""

    def __init__(self) -> None:
        self.tables: list[tuple[str, Table]] = []
        self.extensions: list[Extension] = []
        self.options: dict[str, str] = {}
        self.owner = ""
        self.roles: set[str] = set()
        self.superusers: set[str] = set()

    def take(self, entry: re.Match[str], body: str) -> None:
        """Read one entry; those that may have dollar quotes are not read, only their owner."""
        kind, owner = entry["kind"], entry["owner"].partition("; Tablespace: ")[0]
        self.roles.add(owner)
        if kind in _OF_SUPERUSERS:
            self.superusers.add(owner)
        if kind == "TABLE":
            place = f"{entry['schema']} {entry['name']} {owner}"
            self.tables += [(place, table) for table in _tables(dump.statements(body))]
        elif kind == "EXTENSION":
            names = (_CREATE_EXTENSION.match(statement) for statement in dump.statements(body))
            self.extensions += [Extension(name=unquoted(match[1]), version="") for match in names if match]
        elif kind == "DATABASE":
            self.owner = owner
            self.options = _options(dump.statements(body))
        elif kind in _NAMING_ROLES:
            self.roles |= _roles(dump.statements(body))

    def database(self, name: str) -> Database:
        """Return the manifest's entry, without what only the source could tell."""
        option = self.options.get
        return Database(
            name=name,
            file=None,
            format="custom",
            owner=self.owner,
            encoding=option("ENCODING", "UTF8"),
            locale_provider={"icu": "i", "builtin": "b"}.get(option("LOCALE_PROVIDER", "libc"), "c"),
            collate=option("LC_COLLATE", option("LOCALE", "C")),
            ctype=option("LC_CTYPE", option("LOCALE", "C")),
            locale=option("ICU_LOCALE", option("BUILTIN_LOCALE")),
            collation_version=None,
            actual_collation_version=None,
            bytes=0,
            snapshot="",
            snapshot_lsn="0/0",
            tables=tuple(table for _, table in self.tables),
            large_objects=None,
            sequences=(),
            foreign_keys=(),
            materialized_views=(),
            extensions=tuple(self.extensions),
            objects={},
            invalid_indexes=(),
            settings=(),
        )


def _tables(statements: Iterable[str]) -> Iterator[Table]:
    for statement in statements:
        match = _CREATE_TABLE.match(statement)
        if match:
            kind = "p" if _PARTITIONED.search(statement) else "r"
            schema, name = unquoted(match[2]), unquoted(match[3])
            yield Table(schema_name=schema, name=name, kind=kind, unlogged=bool(match[1]), content=None)


def _options(statements: Iterable[str]) -> dict[str, str]:
    creation = next((one for one in statements if _CREATE_DATABASE.match(one)), "")
    return {match[1] or match[3]: match[2] or match[4] or "" for match in _OPTION.finditer(creation)}


def _roles(statements: Iterable[str]) -> set[str]:
    lists = (match[1] for one in statements for pattern in _ROLES if (match := pattern.search(one)))
    return {unquoted(name) for names in lists for name in re.findall(_NAME, names)} - {"PUBLIC"}


def read_globals(text: bytes) -> Globals:
    """Read which roles a dump of the globals makes; raises RefusedError for what is not pg_dumpall --globals-only.

    The superuser of a server's beginning is the one that grants roles in the name of all others.
    """
    statements = [*dump.statements(text.decode(errors="surrogateescape"))]
    if b"\n-- PostgreSQL database cluster dump complete" not in text or any(map(_CONNECT.match, statements)):
        raise RefusedError("this is no dump of the globals alone, or it is cut short", hint="pg_dumpall --globals-only")
    roles = {unquoted(match[1]) for match in map(_CREATE_ROLE.match, statements) if match}
    superusers = {unquoted(match[1]) for match in map(_SUPERUSER.match, statements) if match}
    granting = {name for name in superusers if any(one.endswith(f" GRANTED BY {name};") for one in statements)}
    likely = sorted(superusers, key=lambda name: (name != "postgres", name not in granting, name))
    return Globals(frozenset(roles), next(iter(likely), "postgres"), text)


def globals_of(named: Named) -> Globals:
    """Write globals for a dump that came without: the roles that it names, none of which can log in."""
    create, promote = sql.SQL("CREATE ROLE {};"), sql.SQL("ALTER ROLE {} WITH SUPERUSER;")
    statements = [create.format(sql.Identifier(role)) for role in sorted(named.roles)]
    statements += [promote.format(sql.Identifier(role)) for role in sorted(named.superusers)]
    text = _INTRODUCTION + "".join(f"{one.as_string()}\n" for one in statements)
    return Globals(named.roles, "postgres", text.encode(errors="surrogateescape"), complete=False)

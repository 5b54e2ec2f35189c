"""Make a table again that is gone: definition, rows, sequences, indexes, triggers, rights, foreign keys both ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import psycopg

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import some
from pgbackup.postgres import dump
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.rows import RowSink, script
from pgbackup.postgres.toc import Archive, Entry

_KEY = "FK CONSTRAINT "
_ROWS = "TABLE DATA "


def make_again(
    connection: Connection,
    archive: Archive,
    tree: tuple[Entry, ...],
    expected: int | None,
    refusing: AbstractContextManager[None],
) -> tuple[int, tuple[str, ...]]:
    """Make a table, with its partitions, by its own name in one transaction; return its rows and what to know.

    A foreign key that present rows violate is made NOT VALID, where the server can, and told.
    """
    parts = archive.parts(tree)
    tables = {entry.id for entry in tree}
    # Into a table that is there a partition goes last: with its own indexes, which the server then finds by itself.
    last = [entry for entry in parts if entry.text.startswith("TABLE ATTACH ") and not entry.depends <= tables]
    there = {number for entry in last for number in entry.depends} - tables
    found = {entry.id for entry in parts if entry.text.startswith("INDEX ATTACH ") and entry.depends & there}
    own = [entry for entry in parts if entry not in last and entry.id not in found and not entry.text.startswith(_KEY)]
    ids = {entry.id for entry in parts}
    # Foreign keys of other tables onto this one went with it; those that are still there are known by their names.
    keys = [entry for entry in archive.entries if entry.text.startswith(_KEY) and entry.depends & ids]
    with refusing, connection.transaction():
        connection.execute(script(archive.text(own, "--section=pre-data")))
        with RowSink(connection) as sink:
            data = [entry for entry in own if entry.text.startswith(_ROWS)]
            if data:
                archive.runner.pipe(archive.script(data, "--data-only"), sink=sink)
        sequences = [entry for entry in own if entry.text.startswith("SEQUENCE SET ")]
        if sequences:
            connection.execute(script(archive.text(sequences)))
        connection.execute(script(archive.text(own, "--section=post-data")))
        if last:
            connection.execute(script(archive.text(last)))
        rows = sink.rows
        if expected not in {None, rows}:
            raise RefusedError(f"{rows} rows came, there were {expected}", hint="recover from another copy")
        notes = [note for key in keys for note in _make_key(connection, archive, key)]
    # Views, functions, other tables' policies: whoever dropped the table with CASCADE dropped them as well.
    known = ids | {key.id for key in keys}
    stood = [entry.text for entry in archive.entries if entry.depends & tables and entry.id not in known]
    if stood:
        notes.append(f"what stood on the table then is not made again: {some(stood, most=50)}")
    return rows, tuple(notes)


def _make_key(connection: Connection, archive: Archive, entry: Entry) -> Iterator[str]:
    for statement in dump.statements(archive.text([entry]).decode("latin-1")):
        if not statement.startswith("ALTER TABLE "):
            continue
        refusal = _try(connection, statement)
        if refusal is None or isinstance(refusal, psycopg.errors.DuplicateObject):
            continue
        lenient = _try(connection, statement.removesuffix(";") + " NOT VALID;")
        made = "made NOT VALID" if lenient is None else "not made"
        yield f"{entry.text}: {made}: {str(refusal).strip()}"


def _try(connection: Connection, statement: str) -> psycopg.Error | None:
    try:
        with connection.transaction():
            connection.execute(statement.encode("latin-1"))
    except psycopg.Error as error:
        return error
    return None

"""Put rows into a table that is there: all of them under its OID, or the missing ones; foreign keys looked at first.

Statements run with triggers and rules off (session_replication_role), so that nothing but the rows changes; the foreign
keys that this leaves unchecked are checked here, both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from pgbackup.postgres.connection import Connection
from pgbackup.postgres.describe import query

_SHOWN = 3


@dataclass(frozen=True)
class Present:
    """A relation that is there now. ``columns`` take values, ``generated`` don't; ``key`` is the primary key."""

    schema_name: str
    name: str
    oid: int
    kind: str
    is_partition: bool
    row_security: bool
    owner: str
    owned: bool
    may_replicate: bool
    columns: tuple[str, ...]
    generated: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema_name, self.name)

    @property
    def rows(self) -> sql.Composed:
        """What to read for its rows: a partitioned table's are its partitions'; those of its heirs are their own."""
        return sql.SQL("{}" if self.kind == "p" else "ONLY {}").format(self.identifier)


@dataclass(frozen=True)
class Violation:
    """Rows of ``table`` that would refer to nothing, with the keys of a few."""

    constraint: str
    table: str
    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.table} ({self.constraint}): {', '.join(self.examples)}"


def look_up(connection: Connection, schema: str, name: str) -> Present | None:
    """Describe a relation, None when there is none of that name."""
    for row in _rows(connection, "table", schema=schema, name=name):
        lists = {field: tuple(row[field]) for field in ("columns", "generated", "key")}
        return Present(schema, name, **{**row, **lists})
    return None


def stage(connection: Connection, present: Present, staged: sql.Identifier, comment: str) -> None:
    """Make an empty table for rows like those of a table: no constraints, no defaults, generated columns."""
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING GENERATED)").format(staged, present.identifier))
    for column in present.columns:
        connection.execute(sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL").format(staged, sql.Identifier(column)))
    _hand_over(connection, present, staged, comment)


def forget_newer(connection: Connection, present: Present, staged: sql.Identifier, columns: set[str]) -> list[str]:
    """Drop the staged columns that the rows have no values for, because they are younger; return their names."""
    newer = [column for column in present.columns if column not in columns]
    for column in newer:
        connection.execute(sql.SQL("ALTER TABLE {} DROP {} CASCADE").format(staged, sql.Identifier(column)))
    return newer


def _hand_over(connection: Connection, present: Present, copy: sql.Identifier, comment: str) -> None:
    """Let nobody read a copy of rows but the table's owner where policies say who may see them."""
    connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(copy, sql.Literal(comment)))
    if present.row_security:
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(copy))
    connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(copy, sql.Identifier(present.owner)))


def missing(present: Present) -> sql.Composed:
    """Return the condition on staged rows ``s`` whose primary key the table has not."""
    same = [sql.SQL("p.{0} = s.{0}").format(sql.Identifier(column)) for column in present.key]
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(present.rows, sql.SQL(" AND ").join(same))


def count(connection: Connection, source: sql.Composable, condition: sql.Composable | None = None) -> int:
    """Count rows ``s``."""
    statement = sql.SQL("SELECT count(*) FROM {} AS s WHERE {}").format(source, condition or sql.SQL("true"))
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


def temporal_references(connection: Connection, present: Present) -> tuple[str, ...]:
    """List the foreign keys with a PERIOD, which are not checked here."""
    return tuple(row["name"] for row in _rows(connection, "references", oid=present.oid) if row["temporal"])


def violations(
    connection: Connection, present: Present, staged: sql.Identifier, only: sql.Composable | None = None
) -> tuple[Violation, ...]:
    """Find what would refer to nothing if the staged rows (``only``: those, besides what is there) were the table's."""
    found: list[Violation] = []
    for row in _rows(connection, "references", oid=present.oid):
        if row["temporal"]:
            continue
        itself = row["referencing"] == row["referenced"]
        if row["referencing"] == present.oid:
            target = staged if itself else sql.SQL(row["referenced_name"])
            also = present.rows if itself and only else None
            found += _dangling(connection, row, staged, target, only, also)
        elif only is None:
            found += _dangling(connection, row, sql.SQL(row["referencing_name"]), staged, None, None)
    return tuple(found)


def dangling(connection: Connection) -> tuple[Violation, ...]:
    """Find what refers to nothing in a database, by the foreign keys that its server vouches for: reads all of it."""
    tables = connection.execute(
        "SELECT DISTINCT conrelid::int8 FROM pg_catalog.pg_constraint WHERE contype = 'f' ORDER BY 1"
    ).fetchall()
    return tuple(
        violation
        for (oid,) in tables
        for row in _rows(connection, "references", oid=oid)
        if row["referencing"] == oid and not row["temporal"]
        for violation in _dangling(
            connection, row, sql.SQL(row["referencing_name"]), sql.SQL(row["referenced_name"]), None, None
        )
    )


def _dangling(
    connection: Connection,
    key: dict[str, Any],
    rows: sql.Composable,
    target: sql.Composable,
    only: sql.Composable | None,
    also: sql.Composable | None,
) -> Iterator[Violation]:
    columns = [sql.SQL("s.{}").format(sql.Identifier(column)) for column in key["columns"]]
    same = sql.SQL(" AND ").join(
        sql.SQL("r.{} {} {}").format(sql.Identifier(one), sql.SQL(operator), column)
        for one, operator, column in zip(key["key"], key["operators"], columns, strict=True)
    )
    conditions: list[sql.Composable] = [sql.SQL("{} IS NOT NULL").format(column) for column in columns]
    conditions += [
        sql.SQL("NOT EXISTS (SELECT FROM {} AS r WHERE {})").format(one, same) for one in (target, also) if one
    ]
    conditions += [only] if only else []
    statement = sql.SQL("SELECT ROW({})::text, count(*) OVER () FROM {} AS s WHERE {} LIMIT {}").format(
        sql.SQL(", ").join(columns), rows, sql.SQL(" AND ").join(conditions), sql.Literal(_SHOWN)
    )
    dangling = connection.execute(statement).fetchall()
    if dangling:
        yield Violation(key["name"], key["referencing_name"], dangling[0][1], tuple(row[0] for row in dangling))


def set_aside(connection: Connection, present: Present, before: sql.Identifier, comment: str) -> None:
    """Copy the rows that are there into a table of their own."""
    connection.execute(sql.SQL("CREATE TABLE {} AS SELECT * FROM {}").format(before, present.rows))
    _hand_over(connection, present, before, comment)


def lock(connection: Connection, present: Present, timeout: float) -> None:
    """Lock the table until the transaction ends, readers out; ``timeout`` in seconds."""
    connection.execute(f"SET LOCAL lock_timeout = {int(timeout * 1000)}")
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(present.rows))


def put(
    connection: Connection,
    present: Present,
    staged: sql.Identifier,
    columns: Sequence[str],
    only: sql.Composable | None = None,
) -> int:
    """Insert staged rows (in the place of all that is there, or ``only`` those); return how many."""
    connection.execute("SET LOCAL session_replication_role = replica")
    eager = _rows(connection, "eager_triggers", oid=present.oid)
    for row in eager:
        _alter_trigger(connection, row, "DISABLE")
    if only is None:
        connection.execute(sql.SQL("DELETE FROM {}").format(present.rows))
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    into = sql.SQL("({}) OVERRIDING SYSTEM VALUE").format(names) if columns else sql.SQL("")
    inserted = connection.execute(
        sql.SQL("INSERT INTO {} {} SELECT {} FROM {} AS s WHERE {}").format(
            present.identifier, into, names, staged, only or sql.SQL("true")
        )
    ).rowcount
    for row in eager:
        _alter_trigger(connection, row, f"ENABLE {row['state']}")
    connection.execute("SET LOCAL session_replication_role = origin")
    _move_sequences(connection, present)
    return inserted


def _alter_trigger(connection: Connection, row: dict[str, Any], what: str) -> None:
    connection.execute(
        sql.SQL("ALTER TABLE ONLY {} {} TRIGGER {}").format(
            sql.SQL(row["table"]), sql.SQL(what), sql.Identifier(row["name"])
        )
    )


def _move_sequences(connection: Connection, present: Present) -> None:
    """Let no sequence hand out a value that is there; none is ever moved back."""
    for row in _rows(connection, "owned_sequences", oid=present.oid):
        statement = sql.SQL(
            "SELECT pg_catalog.setval({sequence}::oid::pg_catalog.regclass, m)"
            " FROM (SELECT {most}({column})::int8 AS m FROM {rows}) AS s,"
            " pg_catalog.pg_sequence_last_value({sequence}::oid::pg_catalog.regclass) AS last"
            " WHERE m {beyond} coalesce(last, m - {one})"
        ).format(
            sequence=sql.Literal(row["sequence"]),
            most=sql.SQL("max" if row["rises"] else "min"),
            column=sql.Identifier(row["column"]),
            rows=present.rows,
            beyond=sql.SQL(">" if row["rises"] else "<"),
            one=sql.Literal(1 if row["rises"] else -1),
        )
        connection.execute(statement)


def _rows(connection: Connection, file: str, **values: object) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(file), values).fetchall()

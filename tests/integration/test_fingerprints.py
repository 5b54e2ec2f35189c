"""The content fingerprint: equal after a dump and restore, different after any change, for every type of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from psycopg import sql
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain.manifest import Content
from pgbackup.domain.model import Verdict
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection, connect
from pgbackup.verify import verify

TYPES = """
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
CREATE EXTENSION cube;
CREATE EXTENSION isn;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (left_one integer, right_one text);
CREATE TYPE deep AS (inner_one pair, moods mood[]);
CREATE DOMAIN short AS varchar(5) CHECK (VALUE <> 'never');
CREATE TYPE times AS RANGE (subtype = time);
CREATE TABLE referred ();
CREATE FUNCTION called(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
"""

# type -> values that look alike and are not the same
VALUES: dict[str, tuple[str, ...]] = {
    "smallint": ("0", "1", "-1"),
    "integer": ("0", "1", "-2147483648"),
    "bigint": ("0", "9007199254740993", "9007199254740992"),
    "numeric": ("1", "1.0", "1.00", "NaN", "Infinity", "-Infinity", "1e-30"),
    "numeric(12,3)": ("1", "1.001", "-1"),
    "real": ("0", "-0", "NaN", "Infinity", "-Infinity", "0.1", "0.100000015"),
    "double precision": ("0", "-0", "NaN", "Infinity", "0.1", "0.10000000000000002", "5e-324"),
    "money": ("0", "0.01", "-0.01", "1234567.89"),
    "boolean": ("t", "f"),
    "text": (
        *("", " ", "a", "A", "a ", "a\nb", "a\\nb", "NULL", "\\N", '"', "("),
        *("\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}", "\N{CLAPPER BOARD}"),
    ),
    "varchar(10)": ("", "a", "a "),
    "char(3)": ("", "a", "a b", "abc"),
    '"char"': ("a", "b", ""),
    "name": ("a", "b", ""),
    "bytea": ("", "\\x00", "\\x0000", "\\x5c78", "a"),
    "bit(3)": ("000", "001", "100"),
    "varbit": ("", "0", "00", "1"),
    "date": ("2026-01-01", "0001-01-01 BC", "0001-01-01", "infinity", "-infinity"),
    "time": ("00:00", "24:00", "12:00:00.000001"),
    "timetz": ("12:00+00", "13:00+01", "12:00+01"),
    "timestamp": ("2026-03-29 02:30", "2026-03-29 02:30:00.000001", "infinity"),
    "timestamptz": ("2026-03-29 02:30+00", "2026-03-29 02:30+02", "-infinity"),
    "interval": ("1 day", "24 hours", "1 mon", "30 days", "-1 day +1 hour", "1 day -23 hours"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"),
    "json": ('{"a":1}', '{"a": 1}', '{"a":1.0}', '{"b":2,"a":1}', '{"a":1,"b":2}', "null", '"\\u0000"'),
    "jsonb": ('{"a":1}', '{"a":1.0}', '{"a":"1"}', "null", "[]", "{}", '""'),
    "jsonpath": ("$.a", "$.b", "strict $.a"),
    "xml": ("<a/>", "<a></a>", "<a> </a>", "text", "<!-- c --><a/>"),
    "inet": ("10.0.0.1", "10.0.0.1/24", "10.0.0.0/24", "::1", "::ffff:10.0.0.1"),
    "cidr": ("10.0.0.0/24", "10.0.0.0/25", "::/0"),
    "macaddr": ("08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    "macaddr8": ("08:00:2b:ff:fe:01:02:03", "08:00:2b:ff:fe:01:02:04"),
    "point": ("(0,0)", "(-0,0)", "(0,0.1)", "(NaN,Infinity)"),
    "line": ("{1,2,3}", "{1,2,3.0000000000000004}"),
    "lseg": ("[(0,0),(1,1)]", "[(1,1),(0,0)]"),
    "box": ("(1,1),(0,0)", "(1,2),(0,0)"),
    "path": ("[(0,0),(1,1)]", "((0,0),(1,1))", "((1,1),(0,0))"),
    "polygon": ("((0,0),(1,1))", "((1,1),(0,0))"),
    "circle": ("<(0,0),1>", "<(0,0),1.0000000000000002>"),
    "tsvector": ("", "a", "a:1", "a:1A", "a:1,2", "'a b'"),
    "tsquery": ("", "a", "a & b", "a | b", "a <-> b", "!a", "a:*"),
    "int4range": ("empty", "[1,2)", "[1,3)", "(,)", "[1,)"),
    "numrange": ("empty", "[1,2)", "[1,2]", "[1.0,2)", "(1,2)"),
    "tstzrange": ("[2026-01-01 00:00+00,)", "(2026-01-01 00:00+00,)", "[2026-01-01 00:00+00,infinity)"),
    "daterange": ("empty", "[2026-01-01,2026-01-02)"),
    "times": ("[08:00,09:00)", "[08:00,09:00]"),
    "int4multirange": ("{}", "{[1,2)}", "{[1,2),[3,4)}"),
    "nummultirange": ("{}", "{[1,2)}", "{[1,2]}"),
    "mood": ("sad", "glad"),
    "pair": ("(1,)", '(1,"")', "(,)", '(1," ")', "(2,)"),
    "deep": ('("(1,a)","{sad}")', '("(1,a)","{}")', '("(1,a)",)'),
    "short": ("", "a", "a "),
    "integer[]": ("{}", "{NULL}", "{1}", "{1,NULL}", "{{1}}", "[0:0]={1}", "{1,2}", "{2,1}", "{{1,2}}", "{{1},{2}}"),
    "text[]": ("{}", "{NULL}", '{"NULL"}', '{""}', "{a}", '{"a,b"}', "{a,b}", '{"{a}"}'),
    "numeric[]": ("{1}", "{1.0}", "{NaN}"),
    "pair[]": ('{"(1,)"}', '{"(1,\\"\\")"}', "{NULL}"),
    "mood[]": ("{sad}", "{glad}", "{sad,sad}"),
    "json[]": ('{"{}"}', '{"{ }"}'),
    "oid": ("0", "1", "4294967295"),
    "regclass": ("public.referred", "pg_catalog.pg_class", "-"),
    "regtype": ("integer", "public.mood"),
    "regprocedure": ("public.called(integer)", "pg_catalog.now()"),
    "regrole": ("backup", "postgres"),
    "pg_lsn": ("0/0", "0/1", "1/0"),
    "xid8": ("0", "1", "18446744073709551615"),
    "pg_snapshot": ("10:20:10,14", "10:20:10,15"),
    "tid": ("(0,1)", "(1,0)"),
    "oidvector": ("", "1", "1 2"),
    "int2vector": ("", "1", "1 2"),
    "refcursor": ("a", "b"),
    "hstore": ("", "a=>1", "a=>NULL", 'a=>"NULL"', "a=>1,b=>2"),
    "citext": ("a", "A", ""),
    "ltree": ("a", "a.b", ""),
    "lquery": ("a.*", "a.*{1}"),
    "cube": ("(0)", "(0,0)", "(0),(1)"),
    "isbn13": ("978-0-393-04002-9", "978-0-11-000222-4"),
}


def load_types(server: Source) -> None:
    """Make a database in which each type has a table of its own."""
    server.execute("CREATE DATABASE types")
    server.execute(TYPES, "types")
    with server.connect("types") as connection:
        for number, (kind, values) in enumerate(VALUES.items()):
            name = sql.Identifier(f"t{number}")
            create = sql.SQL("CREATE TABLE {} (id integer, v {})")
            connection.execute(create.format(name, sql.SQL(kind)))
            for place, value in enumerate((None, *values)):
                statement = sql.SQL("INSERT INTO {} VALUES ({}, {})").format(name, place, sql.Literal(value))
                connection.execute(statement)


@pytest.fixture(scope="module")
def own() -> Iterator[Source]:
    server = Source()
    try:
        server.make_roles()
        load_types(server)
        yield server
    finally:
        server.remove()


@pytest.fixture
def connection(own: Source) -> Iterator[Connection]:
    """A connection as the fingerprint has it; what the test changes is rolled back."""
    with connect(own.parameters("postgres"), "types") as opened, opened.transaction(force_rollback=True):
        yield opened


def content(connection: Connection, name: str, schema: str = "public") -> Content:
    return next(
        describe.content(connection, table)
        for table in describe.tables(connection)
        if (table.schema_name, table.name) == (schema, name)
    )


def test_every_type_is_equal_after_dump_and_restore(own: Source, tmp_path: Path, catalog_dsn: str) -> None:
    site = make_site(tmp_path, own, catalog_dsn, None)
    manifest = capture_full(site, "streamflix")
    rows = {table.name: table.content for table in manifest.database("types").tables}
    for number, (kind, values) in enumerate(VALUES.items()):
        found = rows[f"t{number}"]
        assert found is not None, kind
        assert found.rows == 1 + len(values), kind
    verification = verify(site, manifest.id, "local")
    assert verification.verdict is Verdict.VERIFIED, verification.reason


@pytest.mark.parametrize("kind", VALUES)
def test_every_change_of_a_value_is_seen(connection: Connection, kind: str) -> None:
    """Each value against each other one, NULL among them: alone, and swapped between two rows."""
    table = f"t{list(VALUES).index(kind)}"
    name = sql.Identifier("public", table)
    untouched = content(connection, table)
    places = range(1 + len(VALUES[kind]))
    for first, second in permutations(places, 2):
        copy = sql.SQL("UPDATE {0} SET v = (SELECT o.v FROM {0} AS o WHERE o.id = {1}) WHERE id = {2}")
        with connection.transaction(force_rollback=True):
            connection.execute(copy.format(name, second, first))
            assert content(connection, table) != untouched, (first, second)
        if first < second:
            swap = sql.SQL("UPDATE {0} SET id = {1} + {2} - id WHERE id IN ({1}, {2})")
            with connection.transaction(force_rollback=True):
                connection.execute(swap.format(name, first, second))
                assert content(connection, table) != untouched, (first, second)
    assert content(connection, table) == untouched


def test_rows_count_but_their_order_does_not(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.twice AS SELECT i % 10 AS i FROM generate_series(1, 100) AS i")
    untouched = content(connection, "twice")
    assert untouched.rows == 100
    connection.execute("CREATE TABLE public.backwards AS SELECT i FROM public.twice ORDER BY ctid DESC")
    assert content(connection, "backwards") == untouched
    with connection.transaction(force_rollback=True):
        connection.execute("DELETE FROM public.twice WHERE ctid = (SELECT min(ctid) FROM public.twice WHERE i = 3)")
        assert content(connection, "twice").rows == 99
        connection.execute("INSERT INTO public.twice VALUES (4)")
        exchanged = content(connection, "twice")
        assert exchanged.rows == 100
        assert exchanged.hash != untouched.hash


@pytest.mark.parametrize("column", ["a", "t", "trap", "count", "row", 'we"ird', "été", "a.b", "%s", "%(x)s", "{}"])
def test_no_name_of_a_column_hides_another(connection: Connection, column: str) -> None:
    """``t::text`` would read a column that is called like the alias or the table, and nothing else."""
    create = sql.SQL("CREATE TABLE public.trap ({} integer, other text); INSERT INTO public.trap VALUES (1, 'x')")
    connection.execute(create.format(sql.Identifier(column)))
    untouched = content(connection, "trap")
    connection.execute("UPDATE public.trap SET other = 'y'")
    assert content(connection, "trap") != untouched


def test_values_do_not_move_between_columns_unseen(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.pairs (first text, second text)")
    hashes = set()
    for values in (("a", "b"), ("b", "a"), ("a,b", ""), ("", "a,b"), ("a", None), (None, "a"), ("", "a"), ("(a", "b)")):
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO public.pairs VALUES (%s, %s)", values)
            hashes.add(content(connection, "pairs").hash)
    assert len(hashes) == 8


def test_inherited_columns_in_another_order_are_the_same_rows(connection: Connection) -> None:
    """A dump of an inheriting table may restore its columns in another order."""
    connection.execute(
        "CREATE SCHEMA one; CREATE TABLE one.child (a integer, b text, c text);"
        "CREATE SCHEMA two; CREATE TABLE two.child (c text, a integer, b text);"
        "INSERT INTO one.child (a, b, c) VALUES (1, 'b', 'c'), (2, NULL, '');"
        "INSERT INTO two.child (a, b, c) VALUES (1, 'b', 'c'), (2, NULL, '');"
    )
    assert content(connection, "child", "one") == content(connection, "child", "two")
    connection.execute("UPDATE two.child SET b = c, c = b WHERE a = 1")
    assert content(connection, "child", "one") != content(connection, "child", "two")


def test_rows_of_a_child_are_not_its_parents(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.parent (a integer); CREATE TABLE public.heir () INHERITS (public.parent)")
    connection.execute("INSERT INTO public.heir VALUES (1)")
    assert content(connection, "parent").rows == 0
    assert content(connection, "heir").rows == 1


def test_rows_without_columns_are_counted(connection: Connection) -> None:
    connection.execute("INSERT INTO public.referred SELECT FROM generate_series(1, 3)")
    three = content(connection, "referred")
    connection.execute("INSERT INTO public.referred DEFAULT VALUES")
    assert (three.rows, content(connection, "referred").rows) == (3, 4)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DateStyle", "SQL, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("TimeZone", "'Asia/Kathmandu'"),
        ("extra_float_digits", "0"),
        ("bytea_output", "escape"),
        ("search_path", "public, pg_catalog"),
        ("quote_all_identifiers", "on"),
    ],
)
def test_settings_of_role_or_database_change_no_fingerprint(own: Source, setting: str, value: str) -> None:
    with connect(own.parameters("postgres"), "types") as connection:
        untouched = [describe.content(connection, table) for table in describe.tables(connection)]
    own.execute(f"ALTER DATABASE types SET {setting} = {value}")
    try:
        with connect(own.parameters("postgres"), "types") as connection:
            assert [describe.content(connection, table) for table in describe.tables(connection)] == untouched
    finally:
        own.execute(f"ALTER DATABASE types RESET {setting}")


# ---------------------------------------------------------------------------------------------- large objects

LARGE_OBJECTS = (
    "SELECT lo_put(70000, 5000, 'x')",  # inside
    "SELECT lo_put(70000, 1000000, 'x')",  # behind the end
    "SELECT lo_from_bytea(70001, '')",  # one more, empty
    "SELECT lo_unlink(70000)",
    "SELECT lo_truncate64(lo_open(70000, 131072), 100)",
    "SELECT lo_truncate64(lo_open(70000, 131072), 10001)",  # one zero byte longer
    "SELECT lo_put(70000, 0, '\\x00')",
)


@pytest.mark.parametrize("change", LARGE_OBJECTS)
def test_every_change_of_a_large_object_is_seen(connection: Connection, change: str) -> None:
    connection.execute("SELECT lo_from_bytea(70000, convert_to(repeat('0123456789', 1000), 'UTF8'))")
    untouched = describe.large_objects(connection)
    connection.execute(change.encode())
    assert describe.large_objects(connection) != untouched


def test_holes_of_a_large_object_are_zeros(connection: Connection) -> None:
    """A dump writes out the zeros of a sparse object: that is no other content."""
    connection.execute("SELECT lo_from_bytea(70000, 'x')")
    connection.execute("SELECT lo_put(70000, 100000, 'x')")
    sparse = describe.large_objects(connection)
    connection.execute("SELECT lo_put(70000, 1, decode(repeat('00', 99999), 'hex'))")
    assert describe.large_objects(connection) == sparse

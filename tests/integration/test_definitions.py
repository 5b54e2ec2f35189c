"""The inventory of definitions: a change of any object is seen, in the class that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.source import Source

from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection, connect

# (what is done to the library, the classes that tell)
CHANGES = [
    ("CREATE SCHEMA more", {"schemas"}),
    ("ALTER SCHEMA stock OWNER TO app", {"schemas"}),
    ("REVOKE USAGE ON SCHEMA stock FROM app", {"schemas"}),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", {"schemas"}),
    ("DROP TABLE book CASCADE", {"tables"}),
    ("ALTER TABLE book OWNER TO app", {"tables"}),
    ("ALTER TABLE book SET (fillfactor = 50)", {"tables"}),
    ("DROP PUBLICATION all_books; ALTER TABLE book SET UNLOGGED", {"tables"}),
    ("REVOKE SELECT ON book FROM app", {"tables"}),
    ("GRANT SELECT ON book TO app WITH GRANT OPTION", {"tables"}),
    ("ALTER TABLE book ENABLE ROW LEVEL SECURITY", {"tables"}),
    ("ALTER TABLE book FORCE ROW LEVEL SECURITY", {"tables"}),
    ("ALTER TABLE book ADD COLUMN more text", {"columns"}),
    ("ALTER TABLE book RENAME COLUMN title TO name", {"columns"}),
    ("ALTER TABLE stock.shelf ALTER COLUMN room TYPE varchar(80)", {"columns"}),
    ("ALTER TABLE book ALTER COLUMN title SET NOT NULL", {"columns"}),
    ("ALTER TABLE book ALTER COLUMN title SET DEFAULT ''", {"columns"}),
    ("GRANT UPDATE (title) ON book TO app", {"columns"}),
    ("DROP INDEX book_title", {"indexes"}),
    ("ALTER INDEX book_title SET (fillfactor = 50)", {"indexes"}),
    ("ALTER TABLE book DROP CONSTRAINT book_shelf_id_fkey", {"constraints"}),
    ("ALTER TABLE book ADD CONSTRAINT long CHECK (length > 1) NOT VALID", {"constraints"}),
    ("ALTER TABLE stock.shelf DROP CONSTRAINT shelf_room_key", {"constraints", "indexes"}),
    ("ALTER TABLE book ALTER CONSTRAINT book_shelf_id_fkey DEFERRABLE", {"constraints"}),
    ("ALTER DOMAIN pages DROP CONSTRAINT pages_check", {"constraints"}),
    ("DROP VIEW thick", {"views"}),
    ("ALTER VIEW thick SET (security_invoker)", {"views"}),
    ("DROP MATERIALIZED VIEW by_shelf", {"materialized views"}),
    ("DROP FUNCTION lend", {"functions"}),
    ("ALTER FUNCTION lend SECURITY DEFINER", {"functions"}),
    ("ALTER FUNCTION lend VOLATILE", {"functions"}),
    ("ALTER FUNCTION lend SET search_path = ''", {"functions"}),
    ("REVOKE EXECUTE ON FUNCTION lend FROM PUBLIC", {"functions"}),
    (
        "CREATE OR REPLACE FUNCTION lend(id integer) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1::text'",
        {"functions"},
    ),
    ("DROP TRIGGER kept ON book", {"triggers"}),
    ("ALTER TABLE book DISABLE TRIGGER kept", {"triggers"}),
    ("DROP POLICY own ON book", {"policies"}),
    ("ALTER POLICY own ON book TO app", {"policies"}),
    ("DROP RULE quiet ON stock.shelf", {"rules"}),
    ("ALTER TABLE stock.shelf DISABLE RULE quiet", {"rules"}),
    ("ALTER TYPE binding ADD VALUE 'leather'", {"types"}),
    ("ALTER TYPE binding RENAME VALUE 'paper' TO 'card'", {"types"}),
    ("ALTER DOMAIN pages SET DEFAULT 3", {"types"}),
    ("CREATE TYPE pair AS (a integer, b text)", {"composite types"}),
    ("CREATE TYPE span AS RANGE (subtype = float8)", {"types"}),
    ("ALTER TABLE book ALTER COLUMN book_id DROP IDENTITY", {"sequences", "columns"}),
    ("CREATE SEQUENCE more", {"sequences"}),
    ("DROP STATISTICS together", {"extended statistics"}),
    ("DROP PUBLICATION all_books", {"publications"}),
    ("ALTER PUBLICATION all_books SET (publish = 'insert')", {"publications"}),
    ("DROP COLLATION plain", {"collations"}),
    ("COMMENT ON TABLE book IS 'another'", {"comments"}),
    ("COMMENT ON TABLE book IS NULL", {"comments"}),
    ("ALTER DEFAULT PRIVILEGES IN SCHEMA stock REVOKE SELECT ON TABLES FROM readonly", {"default privileges"}),
    ("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w", {"foreign servers"}),
    ("CREATE OPERATOR <-=-> (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)", {"operators"}),
    ("CREATE TABLE more () INHERITS (stock.shelf)", {"inheritance"}),
    ("SELECT lo_unlink(500000)", {"large objects"}),
    ("ALTER LARGE OBJECT 500000 OWNER TO app", {"large objects"}),
    ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION watch()", {"event triggers"}),
    ("ALTER SEQUENCE book_book_id_seq INCREMENT 7", {"sequence settings"}),
    ("ALTER SEQUENCE book_book_id_seq CYCLE", {"sequence settings"}),
    ("CREATE CAST (binding AS text) WITH INOUT", {"casts"}),
    ("CREATE TEXT SEARCH CONFIGURATION own (COPY = simple)", {"text search configurations"}),
    ("CREATE OPERATOR CLASS own FOR TYPE text USING hash AS OPERATOR 1 =", {"operator classes"}),
    ("CREATE FOREIGN DATA WRAPPER w", {"foreign data wrappers"}),
    (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE USER MAPPING FOR app SERVER s",
        {"user mappings"},
    ),
    ("ALTER DATABASE library OWNER TO app", {"database"}),
    ("ALTER DATABASE library CONNECTION LIMIT 7", {"database"}),
    ("REVOKE CONNECT ON DATABASE library FROM PUBLIC", {"database"}),
    ("COMMENT ON DATABASE library IS 'books'", {"database"}),
    ("ALTER DATABASE library SET work_mem = '9MB'", {"database settings"}),
    ("ALTER ROLE app IN DATABASE library SET work_mem = '9MB'", {"database settings"}),
]


@pytest.fixture
def connection(library: Source) -> Iterator[Connection]:
    """What the test changes is rolled back."""
    with connect(library.parameters("postgres"), "library") as opened, opened.transaction(force_rollback=True):
        yield opened


@pytest.mark.parametrize(("change", "classes"), CHANGES, ids=[change for change, _ in CHANGES])
def test_every_change_of_a_definition_is_seen(connection: Connection, change: str, classes: set[str]) -> None:
    untouched = describe.objects(connection)
    connection.execute("SET search_path = public")
    connection.execute(change.encode())
    connection.execute("SET search_path = ''")
    changed = describe.objects(connection)
    different = {name for name in untouched.keys() | changed.keys() if untouched.get(name) != changed.get(name)}
    assert classes <= different


def test_what_a_connection_does_is_no_change(connection: Connection) -> None:
    untouched = describe.objects(connection)
    connection.execute("CREATE TEMP TABLE mine (a integer PRIMARY KEY); CREATE TEMP VIEW v AS SELECT a FROM mine")
    connection.execute("ANALYZE public.book")
    connection.execute("REFRESH MATERIALIZED VIEW public.by_shelf")
    assert describe.objects(connection) == untouched

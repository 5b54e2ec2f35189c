"""One table recovered from a dump: made again, replaced under its OID, or merged; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.source import Source, small_server
from tests.support.traffic import Traffic

from pgbackup.capture import capture_full
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.postgres import describe
from pgbackup.postgres.rows import RowSink
from pgbackup.recover import RecoveredTable, Way, plan_put, plan_table, put, recover_table

SHOP = r"""
    CREATE EXTENSION citext;
    CREATE SCHEMA "odd; schema";
    CREATE TYPE state AS ENUM ('new', 'sent');
    CREATE TABLE customer (email citext PRIMARY KEY, name text);
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        email citext NOT NULL CONSTRAINT of_customer REFERENCES customer,
        at date NOT NULL DEFAULT '2026-01-01',
        state state NOT NULL DEFAULT 'new',
        number serial UNIQUE,
        net numeric(10, 2) NOT NULL,
        gross numeric GENERATED ALWAYS AS (net * 1.2) STORED,
        replaces bigint REFERENCES orders
    );
    CREATE TABLE line (order_id bigint CONSTRAINT of_order REFERENCES orders, place int, PRIMARY KEY (order_id, place));
    CREATE TABLE event (id bigint, at date, kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE event_old PARTITION OF event FOR VALUES FROM (MINVALUE) TO ('2026-01-01') PARTITION BY HASH (id);
    CREATE TABLE event_old_0 PARTITION OF event_old FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE event_old_1 PARTITION OF event_old FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE event_rest PARTITION OF event DEFAULT;
    CREATE INDEX ON event (kind);
    CREATE TABLE note (id bigint, at date, FOREIGN KEY (id, at) REFERENCES event);
    CREATE TABLE "odd; schema"."../t ""x"" y" ("c ""d"" e" text, t text);
    CREATE TABLE bare ();
    CREATE TABLE empty (a int);
    CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END';
    CREATE VIEW big AS SELECT id, gross FROM orders WHERE net > 50;
    INSERT INTO customer SELECT 'C' || i || '@x', 'n' || i FROM generate_series(1, 50) AS i;
    INSERT INTO orders (email, net, replaces)
    SELECT 'c' || 1 + i % 50 || '@X', i, nullif(i - 1, 0) FROM generate_series(1, 500) AS i;
    INSERT INTO line SELECT i, p FROM generate_series(1, 500) AS i, generate_series(1, 2) AS p;
    INSERT INTO event SELECT i, DATE '2025-12-01' + i, 'k' || i % 3 FROM generate_series(1, 60) AS i;
    INSERT INTO note SELECT id, at FROM event;
    INSERT INTO "odd; schema"."../t ""x"" y" VALUES (E'\\.', E'a\nb'), ('', NULL), (E'\\N', E'\t\\'),
        ('COPY x FROM stdin;', '');
    INSERT INTO bare SELECT FROM generate_series(1, 7);
    CREATE TRIGGER fires BEFORE INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION never();
    CREATE TRIGGER always BEFORE INSERT OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION never();
    ALTER TABLE orders ENABLE ALWAYS TRIGGER always;
    ALTER TABLE orders OWNER TO streamflix_owner;
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON orders TO app USING (email = current_user::text);
    CREATE POLICY theirs ON line TO app USING (EXISTS (SELECT FROM orders WHERE id = order_id));
    CREATE RULE quiet AS ON DELETE TO orders DO INSTEAD NOTHING;
    CREATE STATISTICS both_of ON email, state FROM orders;
    CREATE PUBLICATION shop FOR TABLE orders;
    GRANT SELECT ON orders TO readonly;
    GRANT UPDATE (net) ON orders TO app;
    COMMENT ON COLUMN orders.net IS 'without tax; in EUR'
"""
LAST = """
    SELECT pg_sequence_last_value(pg_get_serial_sequence('orders', 'id')::regclass),
           pg_sequence_last_value(pg_get_serial_sequence('orders', 'number')::regclass)
"""
CONTENT = {
    name: describe.TableSource(*name.split(".", 1), "r", False, columns, "", 0)
    for name, columns in {
        "public.orders": ("at", "email", "gross", "id", "net", "number", "replaces", "state"),
        "public.line": ("order_id", "place"),
    }.items()
}


@pytest.fixture(scope="module")
def place() -> Iterator[Source]:
    with small_server("model", SHOP) as own:
        yield own


@pytest.fixture
def shop(place: Source) -> Iterator[Source]:
    place.execute("CREATE DATABASE shop TEMPLATE model")
    yield place
    place.execute("DROP DATABASE shop WITH (FORCE)")


@pytest.fixture
def site(shop: Source, site_for: Callable[..., Site]) -> Site:
    return site_for(shop, encrypted=False, exclude_databases=["model", "postgres"])


@pytest.fixture
def made(site: Site) -> Manifest:
    return capture_full(site, "streamflix")


def recover(site: Site, made: Manifest, table: str, way: Way = Way.BESIDE) -> RecoveredTable:
    return recover_table(site, plan_table(site, "streamflix", "shop", table, made.id, way=way))


def ask(server: Source, question: str) -> Any:
    with server.connect("shop") as connection:
        return connection.execute(question).fetchall()


def definitions(server: Source) -> Any:
    with server.connect("shop") as connection:
        connection.execute("SET search_path = ''")
        return describe.objects(connection)


def tables(server: Source) -> set[str]:
    return {row[0] for row in ask(server, "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')")}


def content(server: Source, name: str) -> Any:
    with server.connect("shop") as connection:
        connection.execute("SET search_path = ''")
        return describe.content(connection, CONTENT[name])


def test_a_table_that_is_gone_comes_back_whole(shop: Source, site: Site, made: Manifest) -> None:
    before, rows = definitions(shop), content(shop, "public.orders")
    shop.execute("DROP VIEW big; DROP TABLE orders CASCADE", "shop")
    recovered = recover(site, made, "public.orders")
    assert (recovered.rows, recovered.staged) == (500, None)
    assert content(shop, "public.orders") == rows
    assert any("VIEW public big" in note for note in recovered.notes)
    assert any("POLICY public line theirs" in note for note in recovered.notes)
    shop.execute(
        "CREATE VIEW big AS SELECT id, gross FROM orders WHERE net > 50;"
        "CREATE POLICY theirs ON line TO app USING (EXISTS (SELECT FROM orders WHERE id = order_id))",
        "shop",
    )
    assert definitions(shop) == before
    assert ask(shop, LAST) == [(500, 500)]


def test_a_table_that_came_back_since_the_plan_is_not_replaced(shop: Source, site: Site, made: Manifest) -> None:
    shop.execute("ALTER TABLE note RENAME TO hidden", "shop")
    plan = plan_table(site, "streamflix", "shop", "public.note", made.id, way=Way.IN_PLACE)
    shop.execute("ALTER TABLE hidden RENAME TO note", "shop")
    known, rows = tables(shop), ask(shop, "SELECT * FROM note")
    with pytest.raises(RefusedError, match="was gone when this was planned"):
        recover_table(site, plan)
    assert (tables(shop), ask(shop, "SELECT * FROM note")) == (known, rows)


def test_partitions_come_back_with_their_table(shop: Source, site: Site, made: Manifest) -> None:
    before = definitions(shop)
    shop.execute("DROP TABLE event CASCADE", "shop")
    recovered = recover(site, made, "public.event")
    assert recovered.rows == 60
    assert definitions(shop) == before
    assert ask(shop, "SELECT count(*) FROM note JOIN event USING (id, at)") == [(60,)]


def test_a_lost_partition_returns_to_its_table(shop: Source, site: Site, made: Manifest) -> None:
    before = definitions(shop)
    shop.execute("ALTER TABLE note DROP CONSTRAINT note_id_at_fkey; DROP TABLE event_rest", "shop")
    assert recover(site, made, "public.event_rest").rows == 30
    assert ask(shop, "SELECT count(*) FROM event") == [(60,)]
    assert definitions(shop) == before


def test_rows_that_would_refer_to_nothing_are_told(shop: Source, site: Site, made: Manifest) -> None:
    """A table that is gone gets its foreign keys, those that present rows violate NOT VALID; none silently."""
    shop.execute("DROP TABLE orders CASCADE; DELETE FROM customer WHERE email = 'c7@x'", "shop")
    shop.execute("INSERT INTO line VALUES (9999, 1)", "shop")
    notes = " ".join(recover(site, made, "public.orders").notes)
    assert "orders of_customer" in notes
    assert "line of_order" in notes
    assert ask(
        shop, "SELECT conname::text, convalidated FROM pg_constraint WHERE conname LIKE 'of%' ORDER BY conname"
    ) == [("of_customer", False), ("of_order", False)]


def test_in_place_only_the_rows_change(shop: Source, site: Site, made: Manifest) -> None:
    """Under its OID, triggers and rules off, sequences not back; the present rows are kept."""
    wanted, shape = content(shop, "public.orders"), definitions(shop)
    [(oid,)] = ask(shop, "SELECT 'orders'::regclass::oid")
    shop.execute(
        "ALTER TABLE orders DISABLE RULE quiet; SET session_replication_role = replica;"
        "ALTER TABLE orders DISABLE TRIGGER always;"
        "DELETE FROM orders WHERE id % 7 = 3; UPDATE orders SET net = 0 WHERE id % 5 = 0;"
        "INSERT INTO orders (email, net) SELECT 'c1@x', 99 FROM generate_series(1, 9);"
        "ALTER TABLE orders ENABLE ALWAYS TRIGGER always; ALTER TABLE orders ENABLE RULE quiet",
        "shop",
    )
    damaged = content(shop, "public.orders")
    with Traffic(shop, "shop", clients=2):
        recovered = recover(site, made, "public.orders", Way.IN_PLACE)
    assert content(shop, "public.orders") == wanted
    assert ask(shop, "SELECT 'orders'::regclass::oid") == [(oid,)]
    assert ask(shop, LAST) == [(509, 509)]
    assert (recovered.notes, recovered.before is not None) == ((), True)
    columns = ", ".join(CONTENT["public.orders"].columns)
    kept = f'SELECT count(*), sum(hashtextextended(ROW({columns})::text COLLATE "C", 0))::text FROM {recovered.before}'
    assert ask(shop, kept) == [(damaged.rows, damaged.hash)]
    shop.execute(f"DROP TABLE {recovered.before}, account, transfer", "shop")
    assert definitions(shop) == shape
    assert ask(shop, "SELECT count(*) FROM big") == [(450,)]


@pytest.mark.parametrize("way", [Way.BESIDE, Way.IN_PLACE])
def test_violations_in_both_directions_are_listed_and_nothing_changes(
    shop: Source, site: Site, made: Manifest, way: Way
) -> None:
    shop.execute(
        "SET session_replication_role = replica; ALTER TABLE orders DISABLE TRIGGER always;"
        "DELETE FROM customer WHERE email = 'C7@X'; INSERT INTO orders (email, net) VALUES ('c1@x', 1);"
        "INSERT INTO line VALUES (501, 1), (501, 2)",
        "shop",
    )
    present = content(shop, "public.orders")
    if way is Way.BESIDE:
        recovered = recover(site, made, "public.orders")
        found = {(one.table, one.constraint): (one.rows, one.examples) for one in recovered.violations}
        assert found["public.line", "of_order"] == (2, ("(501)", "(501)"))
        assert found["public.orders", "of_customer"][0] == 10
        assert len(found) == 2
        assert recovered.missing == 0
        assert ask(shop, f"SELECT count(*) FROM {recovered.staged}") == [(500,)]
    else:
        with pytest.raises(RefusedError, match=r"2 rows of public.line \(of_order\): \(501\)"):
            recover(site, made, "public.orders", way)
    assert content(shop, "public.orders") == present


def test_merge_adds_what_is_missing_and_touches_nothing_else(shop: Source, site: Site, made: Manifest) -> None:
    shop.execute(
        "SET session_replication_role = replica; ALTER TABLE orders DISABLE TRIGGER always;"
        "DELETE FROM orders WHERE id IN (3, 4, 500); UPDATE orders SET net = 0 WHERE id = 5;"
        "INSERT INTO orders (email, net) VALUES ('c1@x', 1)",
        "shop",
    )
    assert recover(site, made, "public.orders").missing == 3
    merged = recover(site, made, "public.orders", Way.MERGE)
    assert (merged.added, merged.before) == (3, None)
    assert ask(shop, "SELECT id, net::int FROM orders WHERE id IN (3, 4, 5, 500, 501) ORDER BY id") == [
        (3, 3), (4, 4), (5, 0), (500, 500), (501, 1)
    ]  # fmt: skip
    assert ask(shop, "SELECT count(*) FROM orders") == [(501,)]


def test_rows_beside_are_put_into_their_table_when_somebody_has_looked(
    shop: Source, site: Site, made: Manifest
) -> None:
    quoted = '"odd; schema"."../t ""x"" y"'
    wanted = ask(shop, f"SELECT t::text FROM {quoted} AS t ORDER BY 1")
    shop.execute(f"DELETE FROM {quoted} WHERE t = ''", "shop")
    planned = plan_put(site, recover(site, made, 'odd; schema.../t "x" y'), Way.IN_PLACE)
    assert (planned.rows, planned.adds) == (3, 4)
    done = put(site, planned)
    assert ask(shop, f"SELECT t::text FROM {quoted} AS t ORDER BY 1") == wanted
    assert ask(shop, f"SELECT count(*) FROM {done.before}") == [(3,)]
    with pytest.raises(RefusedError, match="is not there any more"):
        put(site, planned)

    delete = "SET session_replication_role = replica; ALTER TABLE orders DISABLE TRIGGER always; DELETE FROM"
    shop.execute(f"{delete} orders WHERE id IN (3, 4, 500)", "shop")
    planned = plan_put(site, recover(site, made, "public.orders"), Way.MERGE)
    assert (planned.rows, planned.adds) == (497, 3)
    shop.execute(f"{delete} customer WHERE email = 'c4@x'", "shop")
    with pytest.raises(RefusedError, match="rows would refer to nothing: nothing was changed"):
        put(site, planned)
    shop.execute("INSERT INTO customer VALUES ('c4@x')", "shop")
    assert (put(site, planned).added, ask(shop, "SELECT count(*) FROM orders")) == (3, [(500,)])


def test_partitioned_rows_return_to_their_partitions(shop: Source, site: Site, made: Manifest) -> None:
    shop.execute("SET session_replication_role = replica; DELETE FROM event", "shop")
    recovered = recover(site, made, "public.event", Way.IN_PLACE)
    assert (recovered.added, recovered.notes) == (60, ())
    assert ask(shop, "SELECT count(*) FROM ONLY event_rest") == [(30,)]
    shop.execute("SET session_replication_role = replica; DELETE FROM event_rest WHERE id < 40", "shop")
    assert recover(site, made, "public.event", Way.MERGE).added == 9


@pytest.mark.parametrize(("table", "rows"), [('odd; schema.../t "x" y', 4), ("public.bare", 7), ("public.empty", 0)])
def test_odd_tables(shop: Source, site: Site, made: Manifest, table: str, rows: int) -> None:
    schema, name = table.split(".", 1)
    quoted = '"{}"."{}"'.format(schema, name.replace('"', '""'))
    whole = f"SELECT t::text FROM {quoted} AS t ORDER BY 1"
    wanted = ask(shop, whole)
    shop.execute(f"DELETE FROM {quoted}", "shop")
    assert recover(site, made, table, Way.IN_PLACE).rows == rows
    assert ask(shop, whole) == wanted
    shop.execute(f"DROP TABLE {quoted}", "shop")
    assert recover(site, made, table).rows == rows
    assert ask(shop, whole) == wanted


def test_what_cannot_be_is_refused_and_nothing_changes(shop: Source, site: Site, made: Manifest) -> None:
    with pytest.raises(RefusedError, match=r"no tables 'public.order'(.|\n)*near: public.orders"):
        recover(site, made, "public.order")
    with pytest.raises(RefusedError, match="no primary key"):
        recover(site, made, "public.note", Way.MERGE)
    with pytest.raises(RefusedError, match="is a partition"):
        recover(site, made, "public.event_rest", Way.IN_PLACE)
    shop.execute("ALTER TABLE customer DROP COLUMN name; ALTER TABLE line ADD COLUMN added int DEFAULT 7", "shop")
    known = tables(shop)
    with pytest.raises(RefusedError, match=r'does not fit(.|\n)*column "name"'):
        recover(site, made, "public.customer")
    assert tables(shop) == known
    shop.execute("DELETE FROM line WHERE order_id = 1", "shop")
    assert "added" in recover(site, made, "public.line", Way.IN_PLACE).notes[0]
    assert ask(shop, "SELECT DISTINCT added FROM line") == [(7,)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4096])
def test_rows_arrive_whole_however_they_are_cut(shop: Source, size: int) -> None:
    """Empty tables, tables without columns, rows that look like the end or like another beginning."""
    script = (
        b"--\n-- a comment\n\nSET client_encoding = 'UTF8';\n\n"
        b"COPY public.empty (a) FROM stdin;\n\\.\n\n\n--\n"
        b"COPY public.bare  FROM stdin;\n\n\n\\.\n\n\n"
        b'COPY "odd; schema"."../t ""x"" y" ("c ""d"" e", t) FROM stdin;\n'
        b"\\\\.\t\\N\n\\N\tCOPY public.empty (a) FROM stdin;\n\\n\\\\.\\n\t\n\\.\n\n"
    )
    shop.execute('TRUNCATE bare, "odd; schema"."../t ""x"" y"', "shop")
    with shop.connect("shop") as connection, RowSink(connection) as sink:
        for start in range(0, len(script), size):
            sink.write(script[start : start + size])
    assert (sink.rows, sink.columns) == (5, {"a", 'c "d" e', "t"})
    assert ask(shop, 'SELECT * FROM "odd; schema"."../t ""x"" y" ORDER BY 1 NULLS LAST') == [
        ("\n\\.\n", ""), ("\\.", None), (None, "COPY public.empty (a) FROM stdin;")
    ]  # fmt: skip
    assert ask(shop, "SELECT count(*) FROM bare") == [(2,)]


def test_a_dump_that_ends_within_a_table_is_refused(shop: Source) -> None:
    with shop.connect("shop") as connection:
        with pytest.raises(RefusedError, match="ends within"), RowSink(connection) as sink:
            sink.write(b"COPY public.bare  FROM stdin;\n\n\n")
        assert connection.execute("SELECT count(*) FROM bare").fetchone() == (7,)

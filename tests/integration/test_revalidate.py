"""Foreign keys checked again, row by row: what the server claims to hold is not believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.source import Source

from pgbackup.postgres.connection import Connection, connect
from pgbackup.postgres.revalidate import check_foreign_keys

# Every kind of key: to and from partitioned tables, to itself, one that nobody vouches for; and who forbids changes.
TABLES = """
CREATE TABLE publisher (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE publisher_old PARTITION OF publisher FOR VALUES FROM (0) TO (100);
CREATE TABLE work (id int PRIMARY KEY, publisher int REFERENCES publisher, sequel_of int REFERENCES work)
    PARTITION BY RANGE (id);
CREATE TABLE work_old PARTITION OF work FOR VALUES FROM (0) TO (100);
CREATE TABLE work_new PARTITION OF work FOR VALUES FROM (100) TO (200);
CREATE TABLE loan (publisher int REFERENCES publisher_old, work int REFERENCES work);
CREATE TABLE lost (publisher int);
INSERT INTO publisher SELECT generate_series(0, 9);
INSERT INTO work SELECT i, i % 10, 0 FROM generate_series(0, 150) AS i;
INSERT INTO loan VALUES (1, 1);
INSERT INTO lost VALUES (4711);
ALTER TABLE lost ADD FOREIGN KEY (publisher) REFERENCES publisher_old NOT VALID;
CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no();
"""
KEYS = 6  # two of each partition of work, two of loan


@pytest.fixture
def works(server: Source) -> Iterator[Connection]:
    server.execute("CREATE DATABASE works")
    try:
        with connect(server.parameters("postgres"), "works", pinned=False) as connection:
            connection.execute(TABLES.encode())
            yield connection
    finally:
        server.execute("DROP DATABASE works WITH (FORCE)")


def test_keys_that_hold_are_counted_and_stay_as_they_are(works: Connection) -> None:
    catalog = "SELECT oid, conname, convalidated FROM pg_constraint ORDER BY oid"
    before = works.execute(catalog).fetchall()
    assert check_foreign_keys(works) == (KEYS, ())
    assert works.execute(catalog).fetchall() == before


def test_every_key_whose_rows_break_it_is_named(works: Connection) -> None:
    works.execute("SET session_replication_role = replica")
    works.execute("UPDATE work SET publisher = 77 WHERE id = 120")
    works.execute("UPDATE work SET sequel_of = 9999 WHERE id = 3")
    works.execute("UPDATE loan SET work = 199")
    works.execute("RESET session_replication_role")
    count, broken = check_foreign_keys(works)
    assert count == KEYS
    assert set(broken) == {
        "work_publisher_fkey on public.work_new",
        "work_sequel_of_fkey on public.work_old",
        "loan_work_fkey on public.loan",
    }

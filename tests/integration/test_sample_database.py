"""The sample StreamFlix database is what the other tests, the demo and the benchmarks take it for.

Everything here holds for the smallest content (scale 0.01), loaded by ``include/sql/streamflix/load.sql``.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from tests.support.source import Source

Connection = psycopg.Connection[tuple[Any, ...]]

# ------------------------------------------------------------------------------------------------- helpers


@pytest.fixture
def connection(streamflix: Source) -> Iterator[Connection]:
    """Inside a transaction that is rolled back: a test may change what it likes."""
    with streamflix.connect() as conn:
        conn.execute("SET timezone = 'UTC'")
        conn.execute("SET datestyle = 'ISO, YMD'")
        with conn.transaction(force_rollback=True):
            yield conn


def row(connection: Connection, query: LiteralString | sql.Composed, *parameters: object) -> tuple[Any, ...]:
    found = connection.execute(query, parameters or None).fetchone()
    assert found is not None
    return found


def one(connection: Connection, query: LiteralString | sql.Composed, *parameters: object) -> Any:
    return row(connection, query, *parameters)[0]


def column(connection: Connection, query: LiteralString, *parameters: object) -> list[Any]:
    return [found[0] for found in connection.execute(query, parameters or None)]


def become(connection: Connection, role: str, account_id: int | None = None) -> None:
    """Do the rest of the transaction as this role, for this account."""
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
    one(connection, "SELECT set_config('app.account_id', %s, true)", str(account_id or ""))


# ------------------------------------------------------------------------------------------------- content

# Rows and the sum of their hashes, recorded once. They are the same on PostgreSQL 15 to 18 and under every
# locale; another value means that the generator makes other content than the one every user of it expects.
CONTENT = {
    "Account": (60, -36628505799674848185),
    "Profile": (147, -74570261268806074467),
    "Title": (30, -13233774617324136614),
    "Episode": (177, -84204340613868078580),
    "Subscription": (69, 22690576489741112130),
    "Payment": (816, 41641561921041070990),
    "WatchEvent": (4600, 30430159229043931609),
    "Rating": (288, 41308527588418959798),
    "AuditEntry": (22, -15715726822802414104),
}


@pytest.mark.parametrize("table", CONTENT)
def test_the_same_scale_gives_the_same_rows_everywhere(connection: Connection, table: str) -> None:
    names = column(
        connection,
        """
        SELECT attname FROM pg_attribute
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum
        """,
        f'"{table}"',
    )
    query = sql.SQL("""SELECT count(*), sum(hashtextextended(ROW({})::text COLLATE "C", 0)) FROM {} AS a""").format(
        sql.SQL(", ").join(sql.Identifier("a", name) for name in names), sql.Identifier(table)
    )
    assert row(connection, query) == CONTENT[table]


def test_the_posters_are_the_same_everywhere(connection: Connection) -> None:
    found = row(
        connection,
        """
        SELECT count(*), sum(hashtextextended(encode(lo_get(oid), 'hex') COLLATE "C", 0))
        FROM pg_largeobject_metadata
        """,
    )
    assert found == (27, -1843876381638263922)


@pytest.mark.parametrize("table", ["Account", "Profile", "Title"])
def test_the_tables_the_protocol_names_have_rows(connection: Connection, table: str) -> None:
    assert one(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))) > 0


def test_every_constraint_is_validated_and_every_index_valid(connection: Connection) -> None:
    assert column(connection, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    assert column(connection, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == []
    foreign_keys = """
        SELECT count(*), count(*) FILTER (WHERE condeferrable)
        FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
    """
    assert row(connection, foreign_keys) == (18, 1)


def test_the_history_fills_its_months_and_the_default_partition_holds_the_beta(
    connection: Connection,
) -> None:
    partitions = column(connection, 'SELECT DISTINCT tableoid::regclass::text FROM "WatchEvent"')
    assert len(partitions) == 23
    beta = """SELECT DISTINCT to_char(started_at, 'YYYY-MM') FROM watch_history."WatchEvent_other" """
    assert column(connection, beta) == ["2024-12"]


def test_nothing_happens_before_its_account_was_created(connection: Connection) -> None:
    early = """
        SELECT count(*)
        FROM "Account" AS a JOIN "Profile" AS p USING (account_id) JOIN "WatchEvent" AS w USING (profile_id)
        WHERE w.started_at < a.created_at OR w.started_at < p.created_at
    """
    assert one(connection, early) == 0


def test_devices_belong_to_the_account_that_watches(connection: Connection) -> None:
    foreign = """
        SELECT count(*)
        FROM "WatchEvent" AS w
        JOIN "Profile" AS p USING (profile_id)
        LEFT JOIN "Device" AS d ON d.device_id = w.device_id AND d.account_id = p.account_id
        WHERE w.device_id IS NOT NULL AND d.device_id IS NULL
    """
    assert one(connection, foreign) == 0


def test_a_paid_invoice_was_paid_once_and_in_full(connection: Connection) -> None:
    wrong = """
        SELECT count(*)
        FROM "Invoice" AS i
        LEFT JOIN (SELECT invoice_id, sum(amount) AS paid
                   FROM "Payment" WHERE status = 'succeeded' GROUP BY invoice_id) AS p USING (invoice_id)
        WHERE p.paid IS DISTINCT FROM CASE WHEN i.status = 'paid' THEN i.total_amount END
    """
    assert one(connection, wrong) == 0


def test_each_large_object_is_the_poster_of_one_title(connection: Connection) -> None:
    posters = column(connection, 'SELECT poster FROM "Title" WHERE poster IS NOT NULL ORDER BY poster')
    assert posters == column(connection, "SELECT oid FROM pg_largeobject_metadata ORDER BY oid")
    assert len(posters) == len(set(posters)) > 0


def test_a_poster_goes_with_its_title(connection: Connection) -> None:
    film = """SELECT title_id, poster FROM "Title" WHERE poster IS NOT NULL AND kind = 'film' LIMIT 1"""
    title, poster = row(connection, film)
    connection.execute('DELETE FROM "WatchEvent" WHERE title_id = %s', [title])
    become(connection, "streamflix_owner")
    connection.execute('DELETE FROM "Title" WHERE title_id = %s', [title])
    assert one(connection, "SELECT count(*) FROM pg_largeobject_metadata WHERE oid = %s", poster) == 0


def test_the_materialized_view_is_populated_and_agrees_with_the_history(connection: Connection) -> None:
    assert column(connection, "SELECT relispopulated FROM pg_class WHERE relkind = 'm'") == [True]
    events = one(connection, 'SELECT count(*) FROM "WatchEvent"')
    assert one(connection, 'SELECT sum(views) FROM "TitleStatistics"') == events
    connection.execute('REFRESH MATERIALIZED VIEW CONCURRENTLY "TitleStatistics"')


def test_sequences_are_not_behind_their_tables(connection: Connection) -> None:
    connection.execute(
        """
        INSERT INTO "Account" (email, password_hash, full_name, country)
        VALUES ('new@example.com', 'none', 'New', 'NL')
        """
    )
    total = """
        INSERT INTO "Invoice" (subscription_id, due_at, net_amount, tax_rate)
        VALUES (1, now() + interval '14 days', 10, 0.21)
        RETURNING total_amount
    """
    assert one(connection, total) == Decimal("12.10")


def test_nobody_has_two_subscriptions_at_a_time(connection: Connection) -> None:
    second = """
        INSERT INTO "Subscription" (account_id, plan_id, period, monthly_price)
        SELECT account_id, 1, tstzrange(since, NULL), 4.99 FROM "ActiveSubscription" LIMIT 1
    """
    with pytest.raises(psycopg.errors.ExclusionViolation):
        connection.execute(second)


# ------------------------------------------------------------------------------------------------- rights


def test_role_backup_has_the_rights_it_needs_and_no_more(connection: Connection) -> None:
    attributes = """
        SELECT rolcanlogin, rolreplication, rolbypassrls, rolsuper, rolcreaterole, rolcreatedb, rolconfig
        FROM pg_roles WHERE rolname = 'backup'
    """
    assert row(connection, attributes) == (True, True, True, False, False, False, ["lo_compat_privileges=on"])
    groups = "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'backup'::regrole"
    assert set(column(connection, groups)) == {"pg_read_all_data", "pg_monitor"}
    on_database = "SELECT has_database_privilege('backup', current_database(), %s)"
    assert one(connection, on_database, "CONNECT")
    assert not one(connection, on_database, "CREATE")
    for function in ("pg_switch_wal()", "pg_create_restore_point(text)"):
        assert one(connection, "SELECT has_function_privilege('backup', %s, 'EXECUTE')", function)

    become(connection, "backup")
    connection.execute("INSERT INTO pgbackup.heartbeat DEFAULT VALUES")
    assert one(connection, 'SELECT count(*) FROM "Account"') == CONTENT["Account"][0]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("""UPDATE "Account" SET country = 'NL'""")


def test_public_may_not_even_connect(connection: Connection) -> None:
    connection.execute("CREATE ROLE stranger LOGIN")
    assert not one(connection, "SELECT has_database_privilege('stranger', current_database(), 'CONNECT')")


@pytest.mark.parametrize("table", ["Account", "Profile", "Device", "Subscription"])
def test_the_app_sees_one_account_at_a_time(connection: Connection, table: str) -> None:
    accounts = sql.SQL("SELECT array_agg(DISTINCT account_id) FROM {}").format(sql.Identifier(table))
    become(connection, "app", account_id=7)
    assert one(connection, accounts) == [7]
    become(connection, "app", account_id=None)
    assert one(connection, accounts) is None


def test_the_app_sees_its_own_history_and_cannot_go_round_by_a_partition(connection: Connection) -> None:
    own = """SELECT count(*) FROM "WatchEvent" JOIN "Profile" USING (profile_id) WHERE account_id = 7"""
    expected = one(connection, own)
    become(connection, "app", account_id=7)
    assert one(connection, 'SELECT count(*) FROM "WatchEvent"') == expected > 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute('SELECT count(*) FROM watch_history."WatchEvent_2025_01"')


def test_the_app_changes_a_plan_and_the_audit_table_tells(connection: Connection) -> None:
    account = one(connection, 'SELECT min(account_id) FROM "ActiveSubscription"')
    entries = one(connection, 'SELECT count(*) FROM "AuditEntry"')
    become(connection, "app", account_id=account)
    assert one(connection, "SELECT change_plan(%s, 4::smallint)", account)
    assert column(connection, 'SELECT plan FROM "ActiveSubscription"') == ["Cinema"]
    connection.execute("RESET ROLE")
    assert one(connection, 'SELECT count(*) FROM "AuditEntry"') == entries + 2


def test_readonly_sees_all_accounts_without_their_addresses(connection: Connection) -> None:
    become(connection, "readonly")
    assert one(connection, 'SELECT count(account_id) FROM "Account"') == CONTENT["Account"][0]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute('SELECT email FROM "Account"')


def test_titles_are_found_in_spite_of_a_spelling_mistake(connection: Connection) -> None:
    name = one(connection, 'SELECT name FROM "Title" ORDER BY length(name) DESC, title_id LIMIT 1')
    become(connection, "app")
    assert name in column(connection, "SELECT name FROM search_titles(%s)", f"{name[:-1]}x")


def test_the_app_reads_a_poster_through_its_function(connection: Connection) -> None:
    become(connection, "app")
    poster = """SELECT title_poster(title_id) FROM "Title" WHERE poster IS NOT NULL LIMIT 1"""
    assert one(connection, poster).startswith(b"\xff\xd8\xff")

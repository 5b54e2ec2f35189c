"""Tables and a database as they were at a moment that no backup was made at, on a server that goes on working."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.archiving import archiving
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import SAMPLE, Source
from tests.support.traffic import TOTAL, Traffic

from pgbackup.capture import capture_base
from pgbackup.domain.errors import BusyError, ConfigurationError, PgBackupError, RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site
from pgbackup.domain.target import AtLsn, AtTime, Target
from pgbackup.postgres import describe
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.toc import read_archive
from pgbackup.recover import RecoveredTable, Way, plan_database, plan_table, recover_database, recover_table
from pgbackup.recover.origin import opened
from pgbackup.recover.side import private_place, side_folder

SHOP = """
    CREATE SCHEMA "odd.schema";
    CREATE TABLE customer (id int PRIMARY KEY, name text);
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer int NOT NULL CONSTRAINT of_customer REFERENCES customer,
        number serial UNIQUE,
        net numeric NOT NULL
    );
    CREATE TABLE line (order_id bigint CONSTRAINT of_order REFERENCES orders ON DELETE CASCADE, place int);
    CREATE VIEW dear AS SELECT id, net FROM orders WHERE net > 90;
    CREATE TABLE event (id bigint, at date, kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE "odd.schema"."old ""x"" event" PARTITION OF event FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
    CREATE TABLE event_rest PARTITION OF event DEFAULT;
    CREATE TABLE note (id bigint, at date, CONSTRAINT of_event FOREIGN KEY (id, at) REFERENCES event);
    CREATE VIEW kinds AS SELECT kind, count(*) FROM event GROUP BY kind;
    CREATE TABLE "odd.schema"."t*""(x)|\\y" (a int);
    CREATE TABLE "odd.schema".kept (a int);
    CREATE TABLE price (id int PRIMARY KEY, amount numeric(10, 2));
    CREATE UNLOGGED TABLE scratch (a int);
    INSERT INTO customer SELECT i, 'n' || i FROM generate_series(1, 50) AS i;
    INSERT INTO orders (customer, net) SELECT 1 + i % 50, i FROM generate_series(1, 400) AS i;
    INSERT INTO line SELECT i, p FROM generate_series(1, 400) AS i, generate_series(1, 2) AS p;
    INSERT INTO event SELECT i, DATE '2025-12-01' + i, 'k' || i % 3 FROM generate_series(1, 60) AS i;
    INSERT INTO note SELECT id, at FROM event;
    INSERT INTO price SELECT i, i / 100.0 FROM generate_series(1, 300) AS i;
    INSERT INTO scratch VALUES (1);
    GRANT SELECT ON orders, event TO readonly;
    GRANT UPDATE (net) ON orders TO app
"""
BANK = {"account", "transfer"}
AFTER = """
    INSERT INTO orders (customer, net) SELECT 1, 1000 + i FROM generate_series(1, 100) AS i;
    UPDATE orders SET net = net + 1 WHERE id <= 10;
    INSERT INTO event SELECT i, DATE '2026-02-01' + i, 'new' FROM generate_series(1, 30) AS i;
    INSERT INTO "odd.schema"."t*""(x)|\\y" SELECT generate_series(1, 9)
"""
DAMAGE = """
    DELETE FROM orders WHERE id > 200;
    INSERT INTO orders (customer, net) VALUES (2, 5);
    ALTER TABLE price ALTER amount TYPE numeric(10, 0), ADD taxed numeric DEFAULT 0;
    CREATE TABLE late (a int);
    DROP TABLE event CASCADE;
    DROP SCHEMA "odd.schema" CASCADE
"""


@dataclass(frozen=True)
class Story:
    """A shop with a base, archived WAL and a moment before the damage; ``truth`` is each table's content then."""

    source: Source
    site: Site
    early: Lsn
    moment: datetime
    truth: dict[str, Any]


def contents(source: Source, database: str = "shop") -> dict[str, Any]:
    with source.connect(database) as connection:
        connection.execute("SET search_path = ''")
        tables = [one for one in describe.tables(connection) if one.kind == "r" and one.name not in BANK]
        return {f"{one.schema_name}.{one.name}": describe.content(connection, one) for one in tables}


def ask(source: Source, question: str, database: str = "shop") -> Any:
    with source.connect(database) as connection:
        return connection.execute(question).fetchall()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Story]:
    source = Source()
    server.execute("CREATE DATABASE moment_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE shop")
        for name in ("postgres", "shop"):
            source.run_script(SAMPLE / "pgbackup.sql", name)
        source.execute(SHOP, "shop")
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=moment_catalog"
        site = make_site(tmp_path_factory.mktemp("moment"), source, dsn, key)
        with archiving(site, source), Traffic(source, "shop", clients=2):
            capture_base(site, "streamflix")
            [(early,)] = ask(source, "SELECT pg_current_wal_insert_lsn()::text")
            source.execute(AFTER, "shop")
            truth = contents(source)
            source.execute(
                "BEGIN; LOCK TABLE customer; INSERT INTO customer VALUES (99); PREPARE TRANSACTION 'undecided'", "shop"
            )
            [(moment,)] = ask(source, "SELECT clock_timestamp()")
            source.execute("ROLLBACK PREPARED 'undecided'", "shop")
            source.execute(DAMAGE, "shop")
            plan_table(site, "streamflix", "shop", "public.orders", target=AtTime(moment))  # has the archive follow
        yield Story(source, site, Lsn.parse(early), moment.astimezone(UTC), truth)
    finally:
        source.remove()
        server.execute("DROP DATABASE moment_catalog WITH (FORCE)")


def recover(story: Story, table: str, way: Way = Way.BESIDE, target: Target | None = None) -> RecoveredTable:
    target = target or AtTime(story.moment)
    return recover_table(story.site, plan_table(story.site, "streamflix", "shop", table, target=target, way=way))


def nothing_stays(story: Story) -> bool:
    return not any(story.site.spool.glob("side/*")) and not any(story.site.spool.glob("recover/*"))


def test_deleted_rows_are_back_in_place_while_the_bank_goes_on(story: Story) -> None:
    source = story.source
    [(oid,)] = ask(source, "SELECT 'orders'::regclass::oid")
    damaged = contents(source)["public.orders"]
    with Traffic(source, "shop", clients=2) as traffic:
        begun = traffic.transfers
        recovered = recover(story, "public.orders", Way.IN_PLACE)
        assert traffic.transfers > begun
    assert any("'undecided'" in note for note in recovered.notes)
    assert all("was prepared and undecided then" in note for note in recovered.notes)  # the traffic's may be, too
    assert contents(source)["public.orders"] == story.truth["public.orders"]
    assert recovered.rows == story.truth["public.orders"].rows == 500
    assert ask(source, "SELECT 'orders'::regclass::oid") == [(oid,)]
    assert ask(source, "SELECT sum(balance) FROM account") == [(TOTAL,)]
    assert ask(source, f"SELECT count(*) FROM {recovered.before}") == [(damaged.rows,)]
    assert ask(source, "SELECT max(id) < nextval(pg_get_serial_sequence('orders', 'id')) FROM orders") == [(True,)]
    assert ask(source, "SELECT has_table_privilege('readonly', 'orders', 'SELECT'), count(*) > 0 FROM dear") == [
        (True, True)
    ]
    assert nothing_stays(story)


def test_a_dropped_table_is_back_as_it_was_before_the_drop(story: Story) -> None:
    story.source.execute('CREATE SCHEMA "odd.schema"', "shop")
    recovered = recover(story, "public.event")
    back = {name: content for name, content in contents(story.source).items() if "event" in name}
    assert back == {name: content for name, content in story.truth.items() if "event" in name}
    assert (recovered.rows, recovered.staged) == (90, None)
    assert any("VIEW public kinds" in note for note in recovered.notes)
    assert ask(story.source, "SELECT convalidated FROM pg_constraint WHERE conname = 'of_event'") == [(True,)]
    assert ask(story.source, "SELECT has_table_privilege('readonly', 'event', 'SELECT')") == [(True,)]
    assert nothing_stays(story)
    odd = recover(story, 'odd.schema.t*"(x)|\\y')
    assert contents(story.source)['odd.schema.t*"(x)|\\y'] == story.truth['odd.schema.t*"(x)|\\y']
    assert odd.rows == 9


def test_values_that_do_not_fit_the_table_as_it_is_now_are_told(story: Story) -> None:
    recovered = recover(story, "public.price")
    assert recovered.rows == 300
    assert [note for note in recovered.notes if "values are not what they were" in note]
    assert [note for note in recovered.notes if "defaults: taxed" in note]


def test_only_the_rows_of_the_wanted_table_are_dumped(story: Story) -> None:
    """Whatever the other tables are called; their definitions are there, for what stands on the table."""
    origin = plan_table(story.site, "streamflix", "shop", "public.customer", target=AtTime(story.moment)).origin
    programs = Programs(story.source.bin)
    with opened(story.site, origin, "shop", ("public", "event")) as dump:
        entries = read_archive(story.site.runner, programs, dump.path, dump.entry.encoding).entries
    texts = [entry.text.rpartition(" ")[0] for entry in entries]
    assert {text for text in texts if text.startswith(("TABLE DATA ", "BLOB"))} == {
        'TABLE DATA odd.schema old "x" event',
        "TABLE DATA public event_rest",
    }
    assert "TABLE public orders" in texts
    assert {one.name for one in dump.entry.tables if one.content} == {'old "x" event', "event_rest"}
    assert nothing_stays(story)


def test_a_database_is_restored_as_it_was_at_the_moment(story: Story) -> None:
    plan = plan_database(story.site, "streamflix", "shop", target=AtTime(story.moment), name="shop_then")
    recovered = recover_database(story.site, plan)
    assert recovered.ok, recovered.findings
    then = contents(story.source, "shop_then")
    assert {name: then[name] for name in story.truth if "scratch" not in name} == {
        name: content for name, content in story.truth.items() if "scratch" not in name
    }
    assert then["public.scratch"].rows == 0
    assert any("unlogged" in warning for warning in plan.origin.recovery.warnings)  # type: ignore[union-attr]
    assert ask(story.source, "SELECT sum(balance) FROM account", "shop_then") == [(TOTAL,)]
    assert nothing_stays(story)


@pytest.mark.parametrize(
    ("table", "said"),
    [("public.late", "no table public.late at"), ("public.scratch", "unlogged")],
)
def test_what_cannot_come_from_the_moment_is_refused_with_nothing_touched(story: Story, table: str, said: str) -> None:
    before = contents(story.source)
    with pytest.raises(RefusedError, match=said):
        recover(story, table, Way.IN_PLACE)
    assert contents(story.source) == before
    assert nothing_stays(story)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"table": "public.order"}, RefusedError, "no tables 'public.order' (.|\n)*near: public.orders"),
        ({"table": "public.dear"}, RefusedError, "no tables"),
        ({"table": "gone.from_here"}, RefusedError, "no tables"),
        ({"database": "nowhere"}, PgBackupError, "nowhere"),
        ({"target": AtTime(datetime(2020, 1, 1, tzinfo=UTC))}, RefusedError, "(?s)before .* can bring back .* from "),
        ({"target": AtTime(datetime(2099, 1, 1, tzinfo=UTC))}, RefusedError, "(?s)2099.* can bring back .* from "),
        ({"backup_id": "streamflix_20260131_020000_full"}, ConfigurationError, "a backup or a moment"),
        ({"target": None, "timeline": 1}, ConfigurationError, "a timeline goes with a moment"),
        ({"repository": "moon"}, ConfigurationError, "moon"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_is_made(
    story: Story, arguments: dict[str, Any], error: type[PgBackupError], said: str
) -> None:
    wanted = {"database": "shop", "table": "public.orders", "target": AtTime(story.moment), **arguments}
    with pytest.raises(error, match=said):
        plan_table(story.site, "streamflix", **wanted)
    assert nothing_stays(story)


def test_a_table_whose_schema_is_gone_is_refused_at_once(story: Story) -> None:
    story.source.execute('DROP SCHEMA IF EXISTS "odd.schema" CASCADE', "shop")
    with pytest.raises(RefusedError, match="so is its schema") as refused:
        recover(story, "odd.schema.kept")
    assert 'CREATE SCHEMA "odd.schema"' in (refused.value.hint or "")


def test_a_table_at_a_moment_from_a_shell(story: Story, tmp_path: Path) -> None:
    source, config = story.source, tmp_path / "protocol.yaml"
    services = tmp_path / "pg_service.conf"
    services.write_text(f"[streamflix]\nhost={source.folder}\nport={source.port}\nuser=postgres\ndbname=postgres\n")
    settings = story.site.settings.model_dump(mode="json", exclude_unset=True)
    settings["paths"]["service_file"] = str(services)
    config.write_text(yaml.safe_dump(settings))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = [str(Path(sys.executable).with_name("pgbackup")), "recover", "table", "shop", "public.customer"]
        return subprocess.run([*program, *words, "--config", str(config)], capture_output=True, text=True, check=False)

    done = run("--lsn", str(story.early))
    assert done.returncode == 0, done.stderr
    assert f"to {story.early}" in done.stdout
    assert "a side server in the spool needs" in done.stdout
    assert '50 rows are in "public"."customer_restored' in done.stdout
    for words, status in (
        (("--lsn", str(story.early), "--backup", "streamflix_20260131_020000_full"), 2),
        (("--to", "2020-01-01T00:00:00Z"), 1),
        (("--to", "yesterday"), 2),
        (("--to", "2026-01-01T00:00:00"), 2),
    ):
        refused = run(*words, "--json")
        assert (refused.returncode, bool(json.loads(refused.stderr)["hint"])) == (status, True)
    assert nothing_stays(story)


def test_never_two_at_the_same_place(story: Story) -> None:
    plan = plan_table(story.site, "streamflix", "shop", "public.orders", target=AtTime(story.moment))
    with private_place(side_folder(story.site, "streamflix")), pytest.raises(BusyError):
        recover_table(story.site, plan)


def test_a_killed_one_leaves_the_table_alone_and_is_cleaned_by_the_next(story: Story, key: KeyPair) -> None:
    call = Call(
        verb="table at",
        folder=str(story.site.settings.paths.backups.parent),
        bin=str(story.source.bin),
        socket=str(story.source.folder),
        port=story.source.port,
        catalog_dsn="",
        key=(str(key.public), str(key.private), str(key.passphrase_file)),
        cluster={},
        lsn=str(story.early),
    )
    before, nursery = contents(story.source), Nursery()
    try:
        for moment in ("started pg_waldump", "started pg_dump #2", "started pg_restore"):
            status, trace = nursery.run(call, moment)
            assert trace[-1] == moment, trace
            assert status < 0
            assert eventually_nobody(call) == []
            assert contents(story.source) == before
            assert not nothing_stays(story)
    finally:
        nursery.close()
    assert recover(story, "public.customer", target=AtLsn(story.early)).rows == 50
    assert nothing_stays(story)

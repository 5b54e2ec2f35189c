"""A database recovered beside the present one: equal to its backup in everything, and nothing else touched."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.source import LIBRARY, Source
from tests.support.traffic import TOTAL, Traffic
from tests.support.wild import PWNED, everything_named

from pgbackup.capture import capture_full
from pgbackup.domain.errors import RefusedError, UnfitError
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.postgres import swap
from pgbackup.recover import (
    RecoveredDatabase,
    Way,
    cut_over,
    list_old,
    plan_cutover,
    plan_database,
    plan_table,
    recover_database,
    recover_table,
)

PROPERTIES = """
    SELECT d.datdba::regrole, d.encoding, d.datlocprovider, d.datcollate, d.datctype, d.datlocale, d.datconnlimit,
           d.datallowconn, shobj_description(d.oid, 'pg_database'),
           (SELECT array_agg(x::text ORDER BY x::text) FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) AS x),
           (SELECT array_agg(setrole::text || setconfig::text ORDER BY setrole)
            FROM pg_db_role_setting WHERE setdatabase = d.oid)
    FROM pg_database AS d WHERE d.datname = %s
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Source]:
    own = Source()
    try:
        own.make_roles()
        yield own
    finally:
        own.remove()


@pytest.fixture
def library(place: Source) -> Iterator[Source]:
    """The small database, with everything that a restore under another name may lose."""
    place.execute("CREATE DATABASE library")
    place.execute(LIBRARY, "library")
    place.execute(
        "ALTER DATABASE library OWNER TO streamflix_owner;"
        "ALTER DATABASE library SET default_transaction_read_only = on;"
        "ALTER DATABASE library CONNECTION LIMIT 40;"
        "ALTER ROLE app IN DATABASE library SET work_mem = '7MB';"
        "REVOKE ALL ON DATABASE library FROM PUBLIC;"
        "GRANT CONNECT ON DATABASE library TO app, backup WITH GRANT OPTION;"
        "COMMENT ON DATABASE library IS 'What is lent'"
    )
    yield place
    drop_all(place)


@pytest.fixture
def site(library: Source, site_for: Callable[..., Site]) -> Site:
    return site_for(library, encrypted=False)


def databases(server: Source) -> set[str]:
    with server.connect("postgres") as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname <> 'postgres' AND NOT datistemplate")
        return {row[0] for row in rows.fetchall()}


def drop_all(server: Source) -> None:
    for name in databases(server):
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)).as_string())


def properties(server: Source, name: str) -> Any:
    with server.connect("postgres") as connection:
        return connection.execute(PROPERTIES, (name,)).fetchone()


def recover(site: Site, database: str, made: Manifest, **options: Any) -> RecoveredDatabase:
    return recover_database(site, plan_database(site, "streamflix", database, made.id, **options))


def test_everything_comes_back_under_another_name(library: Source, site: Site) -> None:
    made = capture_full(site, "streamflix")
    library.execute("BEGIN READ WRITE; DELETE FROM book; COMMIT", "library")
    recovered = recover(site, "library", made)
    assert recovered.ok, recovered.findings
    assert recovered.name.startswith("library_restored_")
    assert databases(library) == {"library", recovered.name}
    assert properties(library, recovered.name) == properties(library, "library")
    with library.connect(recovered.name) as connection:
        assert connection.execute("SELECT count(*) FROM book").fetchone() == (4000,)
    assert not list((site.spool / "recover").iterdir())


def test_under_load_it_is_the_backup_that_comes_back(place: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(place, encrypted=True)
    place.execute("CREATE DATABASE bank")
    try:
        with Traffic(place, "bank", clients=3):
            made = capture_full(site, "streamflix")
            recovered = recover(site, "bank", made, name="Bank, as it was")
        assert recovered.ok, recovered.findings
        with place.connect("Bank, as it was") as connection:
            assert connection.execute("SELECT sum(balance) FROM account").fetchone() == (TOTAL,)
    finally:
        drop_all(place)


def test_any_name_and_any_object(place: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(place, encrypted=False)
    names = ('we"ird; DROP DATABASE postgres; --', "new\nline\r\\restrict x", "../up/and/away", "x" * 63, "it's")
    try:
        for name in names:
            place.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)).as_string())
            if "\n" in name:
                continue  # pg_restore cannot write such a name: see below
            for statement in (
                "ALTER DATABASE {} SET work_mem = '7MB'",
                "COMMENT ON DATABASE {} IS 'mine; not \n\\yours'",
                "GRANT TEMPORARY ON DATABASE {} TO app",
                "ALTER ROLE app IN DATABASE {} SET app.word = 'IN DATABASE x'",
            ):
                place.execute(sql.SQL(statement).format(sql.Identifier(name)).as_string())
        with place.connect(names[0]) as connection:
            for statement in everything_named(names[0]):
                if "IN DATABASE names" not in statement.as_string():
                    connection.execute(statement)
        made = capture_full(site, "streamflix")
        for name in names:
            recovered = recover(site, name, made)
            assert recovered.ok, (name, recovered.findings)
            assert properties(place, recovered.name) == properties(place, name)
        assert not PWNED.exists()
    finally:
        drop_all(place)


def test_what_is_lacking_is_said_before_it_starts(library: Source, site: Site) -> None:
    made = capture_full(site, "streamflix")
    before = databases(library)
    reading = dataclasses.replace(site, recovery_connections=site.connections)
    with pytest.raises(UnfitError, match=r"may not create databases(.|\n)*may not act as streamflix_owner"):
        plan_database(reading, "streamflix", "library", made.id)
    with pytest.raises(RefusedError, match="exists already"):
        plan_database(site, "streamflix", "library", made.id, name="library")
    with pytest.raises(RefusedError, match="no verified backup"):
        plan_database(site, "streamflix", "library")
    with pytest.raises(RefusedError, match="does not hold database 'nowhere'"):
        plan_database(site, "streamflix", "nowhere", made.id)
    assert databases(library) == before


def test_a_database_that_is_not_equal_gets_no_name(library: Source, site: Site) -> None:
    """A role that a grant names is gone: what the backup says cannot be had, and it is not hidden."""
    library.execute("CREATE ROLE guest")
    library.execute("BEGIN READ WRITE; GRANT SELECT ON book TO guest; COMMIT", "library")
    made = capture_full(site, "streamflix")
    library.execute("BEGIN READ WRITE; DROP OWNED BY guest; COMMIT", "library")
    library.execute("DROP ROLE guest")
    recovered = recover(site, "library", made)
    assert not recovered.ok
    assert recovered.name.startswith("restoring_library_at_")
    assert recovered.plan.name not in databases(library)
    [leftover] = plan_database(site, "streamflix", "library", made.id).leftovers
    assert leftover.name == recovered.name
    assert leftover.comment.startswith("pgbackup: ")


def test_cutover_swaps_names_and_drops_nothing(library: Source, site: Site) -> None:
    made = capture_full(site, "streamflix")
    name = recover(site, "library", made).name
    library.execute("BEGIN READ WRITE; DELETE FROM book; COMMIT", "library")
    before = properties(library, "library")
    with library.connect("library") as reader, library.connect(name):
        cutover = plan_cutover(site, "streamflix", "library", name)
        assert cutover.sessions == 2
        assert cut_over(site, cutover).ok
        with pytest.raises(psycopg.OperationalError):
            reader.execute("SELECT 1")
    assert cutover.before is not None
    assert databases(library) == {"library", cutover.before}
    assert properties(library, "library") == before
    with library.connect("library") as connection:
        assert connection.execute("SELECT count(*) FROM book").fetchone() == (4000,)
    [(where, old)] = list_old(site, "streamflix")
    assert (where, old.name, old.drop) == ("", cutover.before, f"DROP DATABASE {old.drop.split(' ', 2)[2]}")
    assert old.comment.endswith("What is lent")
    again = plan_cutover(site, "streamflix", "library", name)
    assert again.done
    assert cut_over(site, again).ok
    assert databases(library) == {"library", cutover.before}


def test_a_cutover_that_fails_lets_the_application_in_again(
    library: Source, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = capture_full(site, "streamflix")
    name = recover(site, "library", made).name
    cutover = plan_cutover(site, "streamflix", "library", name)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(swap, "swap", fail)
    with pytest.raises(KeyboardInterrupt):
        cut_over(site, cutover)
    library.execute("SELECT 1", "library")
    with pytest.raises(RefusedError, match="no database"):
        plan_cutover(site, "streamflix", "library", "nowhere")


def test_a_database_that_is_gone_is_cut_over_to(library: Source, site: Site) -> None:
    made = capture_full(site, "streamflix")
    library.execute("DROP DATABASE library")
    cutover = plan_cutover(site, "streamflix", "library", recover(site, "library", made).name)
    assert cut_over(site, cutover).ok
    assert databases(library) == {"library"}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    own = Nursery()
    yield own
    own.close()


@pytest.fixture
def call(library: Source, catalog_dsn: str, tmp_path: Path) -> Call:
    return Call(
        verb="database",
        folder=str(tmp_path),
        bin=str(library.bin),
        socket=str(library.folder),
        port=library.port,
        catalog_dsn=catalog_dsn,
        key=None,
        cluster={"exclude_databases": ["postgres"]},
    )


def rows(server: Source, database: str) -> Any:
    with server.connect(database) as connection:
        return connection.execute("SELECT count(*), sum(book_id) FROM book").fetchone()


def settled(server: Source) -> set[str]:
    """The databases, once the killed one's own sessions have ended."""
    with server.connect("postgres") as connection:
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgbackup%' AND pid <> pg_backend_pid()"
        ).fetchone():
            time.sleep(0.02)
    return databases(server)


DATABASE_STEPS = ("before create", "after create", "started pg_restore #5", "after give_properties", "after publish")


@pytest.mark.parametrize("moment", DATABASE_STEPS)
def test_killed_while_a_database_is_restored(
    library: Source, site: Site, call: Call, nursery: Nursery, moment: str
) -> None:
    made = capture_full(site, "streamflix")
    status, trace = nursery.run(dataclasses.replace(call, backup_id=made.id), moment)
    assert status == -signal.SIGKILL, trace
    assert eventually_nobody(call) == []
    left = settled(library) - {"library"}
    assert rows(library, "library") == (4000, 8002000)
    listed = {one.name for _, one in list_old(site, "streamflix")}
    assert listed == {name for name in left if name.startswith("restoring_library_at_")}
    recovered = recover(site, "library", made, name="again")
    assert recovered.ok
    assert databases(library) == {"library", "again", *left}


@pytest.mark.parametrize(
    "moment", ["before allow_connections", "after allow_connections", "after end_sessions", "before swap", "after swap"]
)
def test_a_cutover_killed_at_any_step_is_run_again_or_abandoned(
    library: Source, site: Site, call: Call, nursery: Nursery, moment: str
) -> None:
    made = capture_full(site, "streamflix")
    name = recover(site, "library", made).name
    library.execute("BEGIN READ WRITE; DELETE FROM book; COMMIT", "library")
    status, trace = nursery.run(dataclasses.replace(call, verb="cutover", into=name), moment)
    assert status == -signal.SIGKILL, trace
    settled(library)
    assert len(databases(library)) == 2
    again = plan_cutover(site, "streamflix", "library", name)
    assert again.done is (moment == "after swap")
    assert bool(again.notes) is (moment in {"after allow_connections", "after end_sessions", "before swap"})
    if again.notes:
        library.execute(again.notes[0].rpartition(": ")[2])  # abandoned
        assert rows(library, "library") == (0, None)
    cut_over(site, again)
    assert rows(library, "library") == (4000, 8002000)
    assert databases(library) == {"library", again.before}


@pytest.mark.parametrize("moment", ["after stage", "started pg_restore #3", "after set_aside", "after put"])
def test_a_table_is_whole_whenever_its_recovery_is_killed(
    library: Source, site: Site, call: Call, nursery: Nursery, moment: str
) -> None:
    library.execute("ALTER DATABASE library RESET default_transaction_read_only")
    made = capture_full(site, "streamflix")
    library.execute("DELETE FROM book WHERE book_id > 10", "library")
    status, trace = nursery.run(dataclasses.replace(call, verb="table", backup_id=made.id), moment)
    assert status == -signal.SIGKILL, trace
    assert settled(library) == {"library"}
    assert rows(library, "library") == (10, 55)
    left = {one.name for _, one in list_old(site, "streamflix")}
    assert all(name.startswith('"public"."book_restored_') for name in left)
    recover_table(site, plan_table(site, "streamflix", "library", "public.book", made.id, way=Way.IN_PLACE))
    assert rows(library, "library") == (4000, 8002000)
    assert left < {one.name for _, one in list_old(site, "streamflix")}

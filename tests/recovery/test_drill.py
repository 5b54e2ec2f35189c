"""Drills: each scenario is judged by the protocol's seven items, measured, recorded; nothing of it stays."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.support.archiving import archiving
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.forgery import flip, folder_of, manifest_of, put_manifest
from tests.support.keys import KeyPair
from tests.support.site import make_site, with_settings
from tests.support.source import LIBRARY, SAMPLE, Source

from pgbackup.capture import capture_base, capture_full
from pgbackup.catalog import PostgresCatalog
from pgbackup.domain.drill import ACCESSIBLE, ALL_TABLES, CHECKLIST, CONNECTS, PERFORMS, RPO, VALID, Drill, Scenario
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Drill as DrillSettings
from pgbackup.domain.settings import VerifyBackup
from pgbackup.drill import drill
from pgbackup.recover.present import archive_present
from pgbackup.restore.rebuild import rebuild
from pgbackup.verify import verify

APPLICATION = {
    "application_role": "app",
    "queries": [{"database": "library", "sql": "SELECT count(*) FROM public.book", "within": "20s"}],
}


@dataclass(frozen=True)
class Shelf:
    """A library with a verified dump, a base, and WAL with heartbeats."""

    source: Source
    site: Site
    full: Manifest
    base: Manifest
    dsn: str


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Shelf]:
    source = Source()
    server.execute("CREATE DATABASE drill_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE library")
        source.execute(LIBRARY, "library")
        source.run_script(SAMPLE / "pgbackup.sql", "postgres")
        source.run_script(SAMPLE / "pgbackup.sql", "library")
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=drill_catalog"
        site = make_site(tmp_path_factory.mktemp("drill"), source, dsn, key, verify_backup=APPLICATION)
        with archiving(site, source):
            base = capture_base(site, "streamflix")
            full = capture_full(site, "streamflix")
            heartbeats(site, source, 4)
        for manifest in (full, base):
            assert verify(site, manifest.id, "local").verdict is Verdict.VERIFIED
        yield Shelf(source, site, full, base, dsn)
    finally:
        source.remove()
        server.execute("DROP DATABASE drill_catalog WITH (FORCE)")


def heartbeats(site: Site, source: Source, count: int) -> None:
    """Wait until the receiver has written some more, and until they are archived."""
    with source.connect("library") as connection:
        query = "SELECT moment FROM pgbackup.heartbeat"
        wanted = len(connection.execute(query).fetchall()) + count
        deadline = time.monotonic() + 60
        while len(connection.execute(query).fetchall()) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    may_switch = dataclasses.replace(site, connections=lambda _: source.parameters("postgres"))
    assert archive_present(may_switch, "streamflix")


def items(done: Drill) -> dict[str, str]:
    """What of the checklist does not hold, with the reason."""
    assert [one.name for one in done.findings] == list(CHECKLIST)
    return {one.name: one.detail for one in done.findings if not one.ok}


def judged(done: Drill) -> set[str]:
    """What was found not to hold, other than for want of a judgement."""
    return {name for name, detail in items(done).items() if not detail.startswith("not judged")}


def left_behind(site: Site) -> list[Path]:
    """Files in the spool."""
    return [path for path in site.spool.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("scenario", list(Scenario))
def test_a_good_drill_holds_every_item_and_is_remembered(shelf: Shelf, scenario: Scenario) -> None:
    done = drill(shelf.site, "streamflix", scenario)
    assert items(done) == {}
    assert done.ok
    assert {step.seconds > 0 and step.predicted > 0 for step in done.steps} == {True}
    assert done.steps[0].name == "fetch and decrypt"
    assert done.rto_seconds <= (done.finished_at - done.started_at).total_seconds()
    assert (done.rpo_seconds is not None) == (scenario is Scenario.POINT_IN_TIME)
    assert (shelf.base if scenario is Scenario.POINT_IN_TIME else shelf.full).id in done.subject
    assert shelf.site.catalog.drills("streamflix")[0] == done
    assert left_behind(shelf.site) == []


def test_the_drills_of_a_lost_catalog_come_back_from_the_repository(shelf: Shelf, catalog_dsn: str) -> None:
    done = drill(shelf.site, "streamflix", Scenario.TABLE)
    anew = PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True))
    for _ in range(2):
        rebuild(dataclasses.replace(shelf.site, catalog=anew), shelf.site.local)
        assert anew.drills("streamflix") == shelf.site.catalog.drills("streamflix")
    [path] = (shelf.site.settings.paths.backups / "drills" / "streamflix").glob(f"{done.started_at:%Y%m%d_%H%M%S}-*")
    flip(path, 100, 1)
    try:
        another = PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True))
        rebuild(dataclasses.replace(shelf.site, catalog=another), shelf.site.local)
    finally:
        flip(path, 100, 1)


def test_what_is_lost_is_the_time_from_the_archive_s_end_to_the_newest_heartbeat(shelf: Shelf) -> None:
    later = "(SELECT max(moment) + interval '2 h' FROM pgbackup.heartbeat)"
    shelf.source.execute(f"INSERT INTO pgbackup.heartbeat (moment) {later}", "library")
    try:
        done = drill(shelf.site, "streamflix", Scenario.POINT_IN_TIME)
    finally:
        newest = "(SELECT max(moment) FROM pgbackup.heartbeat)"
        shelf.source.execute(f"DELETE FROM pgbackup.heartbeat WHERE moment = {newest}", "library")
    [before] = [one for one in shelf.site.catalog.drills("streamflix") if one.ok and one.rpo_seconds is not None]
    assert done.rpo_seconds == pytest.approx((before.rpo_seconds or 0.0) + 7200, abs=1)
    assert set(items(done)) == {PERFORMS}
    assert RPO in items(done)[PERFORMS]


def test_an_item_that_nothing_is_configured_for_is_not_judged_and_does_not_hold(shelf: Shelf) -> None:
    bare = with_settings(shelf.site, verify_backup=VerifyBackup())
    done = drill(bare, "streamflix", Scenario.TABLE)
    assert set(items(done)) == {CONNECTS}
    assert judged(done) == set()
    [finding] = [one for one in done.findings if one.name == CONNECTS]
    assert "application_role" in finding.hint


def test_the_configured_table_is_the_one_that_comes_back(shelf: Shelf) -> None:
    chosen = with_settings(shelf.site, drill=DrillSettings(table="stock.shelf"))
    done = drill(chosen, "streamflix", Scenario.TABLE)
    assert done.ok, items(done)
    assert done.subject.startswith("library.stock.shelf, 20 rows")
    done = drill(with_settings(shelf.site, drill=DrillSettings(table="gone")), "streamflix", Scenario.TABLE)
    assert judged(done) == {ALL_TABLES}
    assert "'gone'" in items(done)[ALL_TABLES]


def test_a_damaged_dump_is_not_accessible_nothing_else_is_judged_and_it_does_not_count_any_more(shelf: Shelf) -> None:
    full = another_full(shelf)
    flip(folder_of(shelf.site, full.id) / "library.dump.gpg", 5000, 1)
    for scenario in (Scenario.TABLE, Scenario.FULL):
        done = drill(shelf.site, "streamflix", scenario)
        assert not done.ok
        assert (judged(done), len(items(done))) == ({ACCESSIBLE}, len(CHECKLIST))
        assert full.id in done.subject
    known = shelf.site.catalog.backup(full.id)
    assert known is not None
    assert known.state is State.REJECTED
    assert shelf.full.id in drill(shelf.site, "streamflix", Scenario.TABLE).subject
    assert left_behind(shelf.site) == []


def test_other_rows_than_the_source_s_fail_the_validation_alone(shelf: Shelf) -> None:
    folder = folder_of(shelf.site, another_full(shelf).id)
    manifest = manifest_of(folder)
    databases = tuple(
        entry.model_copy(
            update={
                "tables": tuple(
                    table.model_copy(update={"content": table.content.model_copy(update={"hash": "1"})})
                    if table.name == "book" and table.content
                    else table
                    for table in entry.tables
                )
            }
        )
        for entry in manifest.databases
    )
    put_manifest(folder, manifest.model_copy(update={"databases": databases}))
    for scenario in (Scenario.TABLE, Scenario.FULL):
        done = drill(shelf.site, "streamflix", scenario)
        assert set(items(done)) == {VALID}
        assert "book" in items(done)[VALID]


def another_full(shelf: Shelf) -> Manifest:
    full = capture_full(shelf.site, "streamflix")
    assert verify(shelf.site, full.id, "local").verdict is Verdict.VERIFIED
    return full


def test_a_damaged_base_is_not_accessible(shelf: Shelf) -> None:
    path = folder_of(shelf.site, shelf.base.id) / "base.tar.zst.gpg"
    flip(path, 5000, 1)
    try:
        done = drill(shelf.site, "streamflix", Scenario.POINT_IN_TIME)
    finally:
        flip(path, 5000, 1)
    assert not done.ok
    assert ACCESSIBLE in judged(done)
    assert left_behind(shelf.site) == []


def test_what_a_killed_drill_left_is_removed_by_the_next(shelf: Shelf, key: KeyPair) -> None:
    nursery = Nursery()
    try:
        for scenario in (Scenario.POINT_IN_TIME, Scenario.TABLE):  # the other one is a verification
            call = Call(
                verb="drill",
                folder=str(shelf.site.settings.paths.backups.parent),
                bin=str(shelf.source.bin),
                socket=str(shelf.source.folder),
                port=shelf.source.port,
                catalog_dsn=shelf.dsn,
                key=(str(key.public), str(key.private), str(key.passphrase_file)),
                cluster={"verify_backup": APPLICATION},
                into=scenario,
            )
            known = shelf.site.catalog.drills("streamflix")
            status, trace = nursery.run(call, "started postgres #2")
            assert (status, trace[-1]) == (-signal.SIGKILL, "started postgres #2"), trace
            assert left_behind(shelf.site)
            assert shelf.site.catalog.drills("streamflix") == known
            status, trace = nursery.run(call, None)
            assert status == 0, trace
            assert shelf.site.catalog.drills("streamflix")[0].ok
            assert (left_behind(shelf.site), eventually_nobody(call)) == ([], [])
    finally:
        nursery.close()

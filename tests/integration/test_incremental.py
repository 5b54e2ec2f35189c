"""Incrementals: equal to their source at their own marked point, in both methods; a base where none can stand."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator

import pytest
from tests.support.archiving import archiving
from tests.support.forgery import folder_of
from tests.support.receiver import eventually
from tests.support.site import with_settings
from tests.support.source import Source
from tests.support.traffic import Traffic

from pgbackup.capture import capture_incremental, capture_night
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Kind, State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Archived
from pgbackup.restore.archive import list_archive, read_sidecar
from pgbackup.verify import verify

GRANT = "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup"


@pytest.fixture(scope="module")
def busy() -> Iterator[Source]:
    own = Source()
    try:
        own.load_sample("streamflix")
        own.execute(GRANT)
        own.execute("ALTER SYSTEM SET summarize_wal = on")
        own.execute("SELECT pg_reload_conf()")
        yield own
    finally:
        own.remove()


def options(site: Site, **changes: object) -> Site:
    section = site.settings.cluster("streamflix").incremental_backup.model_copy(update=changes)
    return with_settings(site, incremental_backup=section)


def archived_behind(site: Site, base: Manifest) -> list[Archived]:
    """The archived segments behind a base, in order."""
    listing = list_archive(site.local, "streamflix", base.server.system_identifier)
    return [listing.segments[one] for one in sorted(listing.segments) if one.start >= Lsn.parse(base.end_lsn or "")]


def outcome(site: Site, manifest: Manifest) -> Verdict | None:
    verification = verify(site, manifest.id, "local")
    assert {finding.name for finding in verification.findings} >= {"rows and contents equal the source"}
    return verification.verdict


def test_block_incrementals_of_a_busy_server_are_equal_to_their_source(
    busy: Source, site_for: Callable[..., Site]
) -> None:
    site = site_for(busy)
    with Traffic(busy, "streamflix") as traffic:
        _, base = capture_night(site, "streamflix")
        first = capture_incremental(site, "streamflix")
        second = capture_incremental(site, "streamflix")
    assert traffic.transfers > 0
    assert [(one.kind, one.method, one.parent) for one in (first, second)] == [
        (Kind.INCREMENTAL, "block", base.id),
        (Kind.INCREMENTAL, "block", first.id),
    ]
    assert second.stored_bytes < base.stored_bytes
    assert outcome(site, second) is Verdict.VERIFIED


def test_bundles_of_archived_wal_are_equal_to_their_source(busy: Source, site_for: Callable[..., Site]) -> None:
    site = options(site_for(busy), method="wal")
    with archiving(site, busy), Traffic(busy, "streamflix") as traffic:
        _, base = capture_night(site, "streamflix")
        first = capture_incremental(site, "streamflix")
        second = capture_incremental(site, "streamflix")
        third = capture_incremental(options(site, method="auto"), "streamflix")
    assert traffic.transfers > 0
    assert [(one.method, one.parent) for one in (first, second)] == [("wal", base.id), ("wal", first.id)]
    assert (third.method, third.parent) == ("block", base.id)
    assert outcome(site, second) is Verdict.VERIFIED
    assert outcome(site, third) is Verdict.VERIFIED


@pytest.mark.parametrize("fault", ["missing", "two contents"])
def test_an_archive_that_cannot_be_bundled_forces_a_base(
    busy: Source, site_for: Callable[..., Site], fault: str
) -> None:
    site = options(site_for(busy), method="wal")
    with archiving(site, busy):
        _, base = capture_night(site, "streamflix")
        for _ in range(3):
            busy.execute("SELECT pg_logical_emit_message(true, 'test', 'full')", "streamflix")
            busy.execute("SELECT pg_switch_wal()", "streamflix")
        eventually(lambda: len(archived_behind(site, base)) >= 3)
    one = archived_behind(site, base)[1]
    if fault == "missing":
        site.local.delete(one.sidecar_key)
    else:
        other = read_sidecar(site.local, one).model_copy(update={"plain_sha256": "0" * 64})
        with site.local.create(other.sidecar_key) as sink:
            sink.write(other.to_json())
    with archiving(site, busy):
        forced = capture_incremental(site, "streamflix")
    assert (forced.kind, forced.method) == (Kind.BASE, None)


@pytest.mark.parametrize("obstacle", ["nothing before", "rejected", "too long", "no manifest"])
def test_a_base_is_taken_where_no_incremental_can_stand(
    busy: Source, site_for: Callable[..., Site], obstacle: str
) -> None:
    site = options(site_for(busy), method="block")
    if obstacle != "nothing before":
        _, base = capture_night(site, "streamflix")
        if obstacle == "rejected":
            (folder_of(site, base.id) / "base.tar.zst.gpg").write_bytes(b"nonsense")
            assert verify(site, base.id, "local").verdict is Verdict.REJECTED
        elif obstacle == "too long":
            site = options(site, longest_chain=1)
            assert capture_incremental(site, "streamflix").kind is Kind.INCREMENTAL
        elif obstacle == "no manifest":
            shutil.rmtree(site.settings.paths.state_folder)
    taken = capture_incremental(site, "streamflix")
    assert (taken.kind, taken.parent, taken.method) == (Kind.BASE, None, None)
    assert outcome(site, taken) is Verdict.VERIFIED


def test_a_damaged_parent_rejects_its_children(busy: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(busy)
    _, base = capture_night(site, "streamflix")
    child = capture_incremental(site, "streamflix")
    path = folder_of(site, base.id) / "base.tar.zst.gpg"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert verify(site, base.id, "local").verdict is Verdict.REJECTED
    backup = site.catalog.backup(child.id)
    assert backup is not None
    assert backup.state is State.REJECTED
    assert verify(site, child.id, "local").verdict is Verdict.REJECTED


def test_tablespaces_come_back_inside_the_server(busy: Source, site_for: Callable[..., Site]) -> None:
    """Production's own folder is not touched, although it is on the same machine."""
    folder = busy.folder / "space"
    folder.mkdir()
    site = site_for(busy)
    busy.execute(f"CREATE TABLESPACE fast LOCATION '{folder}'")
    try:
        busy.execute("CREATE TABLE fast_one TABLESPACE fast AS SELECT generate_series(1, 1000) AS n", "streamflix")
        _, base = capture_night(site, "streamflix")
        busy.execute("INSERT INTO fast_one SELECT generate_series(1, 1000)", "streamflix")
        child = capture_incremental(site, "streamflix")
        assert child.kind is Kind.INCREMENTAL
        assert outcome(site, base) is Verdict.VERIFIED
        assert outcome(site, child) is Verdict.VERIFIED
        with busy.connect("streamflix") as connection:
            busy.stop()
            busy.start()
        with busy.connect("streamflix") as connection:
            assert connection.execute("SELECT count(*) FROM fast_one").fetchone() == (2000,)
    finally:
        busy.execute("DROP TABLE IF EXISTS fast_one", "streamflix")
        busy.execute("DROP TABLESPACE fast")


def test_databases_with_marked_points_of_their_own_are_each_compared(
    busy: Source, site_for: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where clients write to two databases without a pause, no one point serves both."""
    from pgbackup.capture import marks

    monkeypatch.setattr(marks, "common_point", lambda _ranges: None)
    site = site_for(busy)
    busy.execute("CREATE DATABASE second")
    busy.execute(GRANT, "second")
    try:
        with contextlib.ExitStack() as stack:
            for name in ("streamflix", "second"):
                stack.enter_context(Traffic(busy, name, clients=3))
            _, base = capture_night(site, "streamflix")
        points = {entry.marked_lsn for entry in base.databases if entry.name in {"streamflix", "second"}}
        assert len(points) == 2
        assert outcome(site, base) is Verdict.VERIFIED
    finally:
        busy.execute("DROP DATABASE second")

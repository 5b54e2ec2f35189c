"""What goes wrong around a chain of physical backups: killed, altered, half expired, moved to another timeline."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.forgery import folder_of, restate
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import LIBRARY, Source

from pgbackup.capture import capture_incremental, capture_night
from pgbackup.capture.physical import PhysicalCapture
from pgbackup.domain.errors import UnfitError
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Finding, Kind, State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.postgres.physical import WalRange
from pgbackup.restore.fetch import check_stored, describe_copy
from pgbackup.verify import verify

CLUSTER = {"exclude_databases": ["postgres"]}


@pytest.fixture(scope="module")
def own() -> Iterator[Source]:
    source = Source()
    try:
        source.make_roles()
        source.execute("CREATE DATABASE library")
        source.execute(LIBRARY, "library")
        source.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
        source.execute("ALTER SYSTEM SET summarize_wal = on")
        source.execute("ALTER SYSTEM SET min_wal_size = '32MB'")
        source.execute("SELECT pg_reload_conf()")
        yield source
    finally:
        source.remove()


@pytest.fixture
def site(own: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path) -> Site:
    return make_site(tmp_path, own, catalog_dsn, key, **CLUSTER)


@pytest.fixture
def plain_site(own: Source, catalog_dsn: str, tmp_path: Path) -> Site:
    return make_site(tmp_path, own, catalog_dsn, None, **CLUSTER)


def failed(site: Site, manifest: Manifest) -> list[Finding]:
    verification = verify(site, manifest.id, "local")
    assert verification.verdict is Verdict.REJECTED
    return [finding for finding in verification.findings if not finding.ok]


def committed(site: Site) -> set[str]:
    return {
        found.key.split("/")[1]
        for kind in Kind
        for found in site.local.list(f"{kind}/")
        if found.key.endswith(f"/{SUMS}")
    }


# ------------------------------------------------------------------------------------------------------ killed


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


@pytest.mark.parametrize(
    ("verb", "moment"),
    [
        ("night", "started pg_receivewal"),
        ("night", "started pg_basebackup"),
        ("night", "written base.tar.zst.gpg"),
        ("night", "stored wal.tar.zst.gpg"),
        ("night", "stored SHA256SUMS"),
        ("incremental", "started pg_basebackup"),
        ("incremental", "started pg_waldump"),
        ("incremental", "stored backup_manifest.gpg"),
        ("incremental", "stored manifest.json"),
        ("incremental", "stored SHA256SUMS"),
        ("incremental", "after captured"),
    ],
)
def test_a_killed_physical_capture_is_a_whole_backup_or_none(
    nursery: Nursery, own: Source, site: Site, catalog_dsn: str, key: KeyPair, tmp_path: Path, verb: str, moment: str
) -> None:
    if verb == "incremental":
        capture_night(site, "streamflix")
    before = committed(site)
    call = Call(
        verb=verb,
        folder=str(tmp_path),
        bin=str(own.bin),
        socket=str(own.folder),
        port=own.port,
        catalog_dsn=catalog_dsn,
        key=(str(key.public), str(key.private), str(key.passphrase_file)),
        cluster=CLUSTER,
    )
    status, trace = nursery.run(call, moment)
    assert (status, trace[-1]) == (-signal.SIGKILL, moment), trace
    assert eventually_nobody(call) == []
    assert len(committed(site) - before) == ("stored SHA256SUMS" in trace)

    last = capture_incremental(site, "streamflix")
    for backup_id in committed(site):
        description = describe_copy(site, site.local, BackupId.parse(backup_id))
        check_stored(site.local, description)
    assert {path.name for path in site.spool.glob("*")} <= {"verify"}
    captured = {one.id for one in site.catalog.backups() if one.state is State.CAPTURED}
    assert captured == committed(site)
    assert verify(site, last.id, "local").verdict is Verdict.VERIFIED
    with own.connect("library") as connection:
        left = connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone()
    assert left == (0,), "a killed capture must not keep the server's WAL"


# ------------------------------------------------------------------------------------------------------ altered


def repack(folder: Path, name: str, *, change: str) -> None:
    """Unpack a stored tar, change it by a shell command, pack it again with fitting checksums."""
    inside = folder / "inside"
    inside.mkdir()
    subprocess.run(["tar", "--extract", "--zstd", f"--file={folder / name}", f"--directory={inside}"], check=True)
    subprocess.run(["sh", "-ec", change], cwd=inside, check=True)
    files = sorted(path.name for path in inside.iterdir())
    argv = ["tar", "--create", "--zstd", f"--file={folder / name}", f"--directory={inside}", "--", *files]
    subprocess.run(argv, check=True)
    shutil.rmtree(inside)
    restate(folder, plain=True)


def test_an_altered_input_of_the_combination_is_rejected(own: Source, plain_site: Site) -> None:
    """Checksums of ours that fit again don't help: each link is held against its own backup_manifest."""
    capture_night(plain_site, "streamflix")
    own.execute("UPDATE book SET length = 1 + length % 100 WHERE book_id <= 800", "library")
    child = capture_incremental(plain_site, "streamflix")
    assert child.method == "block"
    change = (
        "f=$(find base -name 'INCREMENTAL.*' -size +9k | head -n 1); printf X | dd of=$f bs=1 seek=9000 conv=notrunc"
    )
    repack(folder_of(plain_site, child.id), "base.tar.zst", change=change)
    [finding] = failed(plain_site, child)
    assert finding.name == "files match the backup manifest"
    assert child.id in finding.detail


def test_a_segment_that_is_missing_from_the_wal_of_a_base_is_a_gap(own: Source, plain_site: Site) -> None:
    own.execute("SELECT pg_switch_wal()", "library")
    _, base = capture_night(plain_site, "streamflix")
    repack(folder_of(plain_site, base.id), "wal.tar.zst", change="rm $(ls | tail -n 1)")
    [finding] = failed(plain_site, base)
    assert "gap" in finding.detail


def test_a_missing_parent_rejects_the_chain(own: Source, plain_site: Site) -> None:
    _, base = capture_night(plain_site, "streamflix")
    child = capture_incremental(plain_site, "streamflix")
    shutil.rmtree(folder_of(plain_site, base.id))
    assert failed(plain_site, child)


# ------------------------------------------------------------------------------------------------ what WAL brings


def test_a_tablespace_made_in_the_replayed_wal_is_refused_and_production_not_touched(
    own: Source, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own.folder / "live"
    folder.mkdir()
    take = PhysicalCapture.take_files

    def take_and_create(self: PhysicalCapture, parent: Path | None) -> WalRange:
        wal = take(self, parent)
        own.execute(f"CREATE TABLESPACE live LOCATION '{folder}'")
        own.execute("CREATE TABLE living TABLESPACE live AS SELECT generate_series(1, 1000) AS n", "library")
        return wal

    monkeypatch.setattr(PhysicalCapture, "take_files", take_and_create)
    try:
        _, base = capture_night(site, "streamflix")
        monkeypatch.undo()
        own.execute("INSERT INTO living SELECT generate_series(1, 500)", "library")
        own.execute("CHECKPOINT")
        live = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(UnfitError, match="tablespace"):
            verify(site, base.id, "local")
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == live
        backup = site.catalog.backup(base.id)
        assert backup is not None
        assert backup.state is State.CAPTURED
    finally:
        own.execute("DROP TABLE IF EXISTS living", "library")
        own.execute("DROP TABLESPACE live")


def test_prepared_transactions_and_unlogged_tables_do_not_stand_in_the_way(own: Source, site: Site) -> None:
    own.execute("CREATE UNLOGGED TABLE unlogged_one AS SELECT generate_series(1, 10) AS n", "library")
    with own.connect("library") as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO stock.shelf VALUES (900, 'never committed')")
        connection.execute("PREPARE TRANSACTION 'pending'")
    try:
        _, base = capture_night(site, "streamflix")
        child = capture_incremental(site, "streamflix")
    finally:
        own.execute("ROLLBACK PREPARED 'pending'", "library")
        own.execute("DROP TABLE unlogged_one", "library")
    assert child.kind is Kind.INCREMENTAL
    assert [verify(site, one.id, "local").verdict for one in (base, child)] == [Verdict.VERIFIED] * 2


# ------------------------------------------------------------------------------------------------ the server's side


def test_summaries_that_expired_force_a_base(own: Source, site: Site) -> None:
    capture_night(site, "streamflix")
    for _ in range(6):
        own.execute("SELECT pg_switch_wal()", "library")
        own.execute("UPDATE book SET length = 2", "library")
        own.execute("CHECKPOINT")
    own.stop()
    for path in (own.data / "pg_wal" / "summaries").iterdir():
        path.unlink()
    own.start()
    taken = capture_incremental(site, "streamflix")
    assert (taken.kind, taken.parent) == (Kind.BASE, None)
    assert verify(site, taken.id, "local").verdict is Verdict.VERIFIED


def test_another_timeline_forces_a_base(own: Source, site: Site) -> None:
    capture_night(site, "streamflix")
    own.stop()
    (own.data / "standby.signal").touch()
    own.start()
    own.execute("SELECT pg_promote()")
    taken = capture_incremental(site, "streamflix")
    assert (taken.kind, taken.server.timeline) == (Kind.BASE, 2)
    assert verify(site, taken.id, "local").verdict is Verdict.VERIFIED

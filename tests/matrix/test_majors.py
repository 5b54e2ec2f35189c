"""Every supported major version: captured under load, proved, told from what was tampered with, restored by scripts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbackup.capture import capture_full, capture_incremental, capture_night, preflight
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.target import AtTime, Latest, Target
from pgbackup.postgres import replication
from pgbackup.recover import recover_cluster
from pgbackup.verify import verify
from tests.integration.test_adopt import old, test_it_is_proved_by_itself_and_recovered  # noqa: F401 - run here as well
from tests.integration.test_cli import shell, test_back_up_verify_list_show  # noqa: F401 - likewise
from tests.integration.test_revalidate import *  # noqa: F403 - likewise
from tests.integration.test_sample_database import *  # noqa: F403 - likewise
from tests.integration.test_scripts import conninfo, fingerprints, key_options, reach
from tests.support.archiving import archiving
from tests.support.forgery import flip, folder_of, put_manifest, restate
from tests.support.keys import KeyPair
from tests.support.receiver import eventually, is_sealed_to_now
from tests.support.recovered import reading
from tests.support.source import ROOT, Source
from tests.support.traffic import TOTAL, Traffic


def test_preflight_has_nothing_against_it(server: Source, site_for: Callable[..., Site]) -> None:
    assert [finding for finding in preflight(site_for(server), "streamflix") if not finding.ok] == []


def test_a_night_under_load_is_proved(server: Source, site_for: Callable[..., Site]) -> None:
    """Every type's values, large objects and the sample's rows among them, in the dump and in the base."""
    site = site_for(server)
    with Traffic(server, "streamflix") as traffic:
        full, base = capture_night(site, "streamflix")
    assert traffic.transfers > 0
    assert full.server.version // 10000 == server.major
    assert {file.name for file in base.files} >= {"base.tar.zst.gpg", "wal.tar.zst.gpg", "backup_manifest.gpg"}
    for manifest in (full, base):
        verification = verify(site, manifest.id, "local")
        assert verification.verdict is Verdict.VERIFIED, verification.reason


def test_changed_blocks_are_proved_and_an_older_server_gives_a_base(
    server: Source, site_for: Callable[..., Site]
) -> None:
    site = site_for(server, incremental_backup={"method": "block"})
    with Traffic(server, "streamflix") as traffic:
        _, base = capture_night(site, "streamflix")
        taken = capture_incremental(site, "streamflix")
    assert traffic.transfers > 0
    expected = (Kind.INCREMENTAL, "block", base.id) if server.major >= 17 else (Kind.BASE, None, None)
    assert (taken.kind, taken.method, taken.parent) == expected
    verification = verify(site, taken.id, "local")
    assert verification.verdict is Verdict.VERIFIED, verification.reason


def test_archived_wal_is_bundled_and_proved_and_the_cluster_comes_back_to_a_moment(
    server: Source, site_for: Callable[..., Site], received: None, tmp_path: Path
) -> None:
    site = site_for(server, incremental_backup={"method": "wal"})
    with archiving(site, server):
        with Traffic(server, "streamflix") as traffic, server.connect("streamflix") as connection:
            _, base = capture_night(site, "streamflix")
            taken = capture_incremental(site, "streamflix")
            connection.execute("INSERT INTO mark VALUES ('before')")
            [moment] = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
            time.sleep(0.1)
            connection.execute("INSERT INTO mark VALUES ('behind')")
        eventually(is_sealed_to_now(site, server))
    assert traffic.transfers > 0
    assert (taken.kind, taken.method, taken.parent) == (Kind.INCREMENTAL, "wal", base.id)
    verification = verify(site, taken.id, "local")
    assert verification.verdict is Verdict.VERIFIED, verification.reason

    targets: list[tuple[Target, set[str]]] = [(Latest(), {"before", "behind"}), (AtTime(moment), {"before"})]
    for target, marks in targets:
        recovered = recover_cluster(site, "streamflix", target, into=tmp_path / str(len(marks)))
        with reading(recovered, server, "streamflix") as connection:
            assert connection.execute("SELECT sum(balance) FROM account").fetchone() == (TOTAL,)
            assert {name for (name,) in connection.execute("SELECT name FROM mark")} == marks


@pytest.fixture
def received(server: Source) -> Iterator[None]:
    """A table for marks; the slot that a receiver made is gone afterwards."""
    server.execute("CREATE TABLE mark (name text)", "streamflix")
    yield
    server.execute("DROP TABLE mark", "streamflix")
    with server.connect("postgres") as connection:
        eventually(lambda: not replication.slot(connection, "pgbackup").active)  # type: ignore[union-attr]
        connection.execute("SELECT pg_drop_replication_slot('pgbackup')")


@pytest.mark.parametrize("compression", ["none", "gzip", "gzip:9", "lz4", "zstd:3"])
def test_each_compression_gives_a_dump(server: Source, site_for: Callable[..., Site], compression: str) -> None:
    site = site_for(server, exclude_databases=["streamflix", "types"], full_backup={"compression": compression})
    manifest = capture_full(site, "streamflix")
    assert any(entry.name == "postgres" for entry in manifest.databases)


@pytest.fixture
def night(server: Source, site_for: Callable[..., Site]) -> tuple[Site, tuple[Manifest, ...]]:
    site = site_for(server, encrypted=False)
    return site, capture_night(site, "streamflix")


def test_tampered_backups_are_rejected(night: tuple[Site, tuple[Manifest, ...]]) -> None:
    """Bytes of the dump and of the base, with checksums that fit again; then a row that the source did not have."""
    site, (full, base) = night
    for manifest, file in ((full, "streamflix.dump"), (base, "base.tar.zst")):
        path = folder_of(site, manifest.id) / file
        flip(path, path.stat().st_size // 2, 4)
        restate(path.parent, plain=True)
        assert verify(site, manifest.id, "local").verdict is Verdict.REJECTED, file
        flip(path, path.stat().st_size // 2, 4)

        put_manifest(path.parent, one_row_more(manifest))
        verification = verify(site, manifest.id, "local")
        failed = [finding.name for finding in verification.findings if not finding.ok]
        assert failed == ["rows and contents equal the source"], file


def one_row_more(manifest: Manifest) -> Manifest:
    """Let the source have had another row in one of its tables."""
    [entry] = [one for one in manifest.databases if one.name == "streamflix"]
    table = next(one for one in entry.tables if one.content and one.content.rows)
    assert table.content is not None
    content = table.content.model_copy(update={"rows": table.content.rows + 1})
    tables = tuple(one if one is not table else one.model_copy(update={"content": content}) for one in entry.tables)
    changed = entry.model_copy(update={"tables": tables})
    databases = tuple(one if one is not entry else changed for one in manifest.databases)
    return manifest.model_copy(update={"databases": databases})


def test_the_scripts_back_up_verify_and_restore(server: Source, key: KeyPair, tmp_path: Path) -> None:
    def run(script: str, *arguments: object) -> str:
        environment = {
            "PATH": f"{server.bin}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            **reach(server),
        }
        argv = [str(ROOT / "include" / "scripts" / script), *map(str, arguments)]
        done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    directory = run("backup.sh", f"--backups={tmp_path}", f"--recipient={key.public}").rstrip("\n")
    assert run("verify_backup.sh", directory, *key_options(key)).endswith("verdict: verified\n")
    for database in ("streamflix", "types"):
        where = [f"--database={database}", f"--as={database} again", "--to", conninfo(server), *key_options(key)]
        run("restore.sh", directory, *where)
        try:
            assert fingerprints(server, f"{database} again") == fingerprints(server, database)
        finally:
            server.execute(f'DROP DATABASE "{database} again"')

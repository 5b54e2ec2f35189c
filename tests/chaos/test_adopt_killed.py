"""An adoption killed with SIGKILL at every moment: nothing half-done is taken for a backup, and the next try adopts."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from tests.support.doomed import Address, Call, Nursery, eventually_nobody
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.adopt import adopt
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.model import State
from pgbackup.restore.fetch import check_stored, describe_copy

CLUSTER = {"exclude_databases": ["postgres"]}


@pytest.fixture(scope="module")
def dump(library: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "library.dump"
    where = ["-h", str(library.folder), "-p", str(library.port), "-U", "postgres", "-d", "library"]
    subprocess.run([str(library.bin / "pg_dump"), *where, "-F", "c", "-f", str(path)], check=True)
    return path


def test_a_killed_adoption_leaves_no_backup_and_can_be_repeated(
    library: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path, dump: Path
) -> None:
    nursery = Nursery()
    try:
        moments = _trace(nursery, _call(library, catalog_dsn, key, tmp_path / "whole", dump))
        assert {"stored key.1.gpg", "open library.dump.gpg", "written SHA256SUMS", "before captured"} <= set(moments)
        for number, at in enumerate(moments):
            with library.connect("postgres") as connection:
                connection.execute(f"CREATE DATABASE adopting{number}")
            try:
                dsn = f"host={library.folder} port={library.port} user=postgres dbname=adopting{number}"
                _try(nursery, _call(library, dsn, key, tmp_path / str(number), dump), at)
            finally:
                library.execute(f"DROP DATABASE adopting{number} WITH (FORCE)")
    finally:
        nursery.close()


def _call(library: Source, dsn: str, key: KeyPair, folder: Path, dump: Path) -> Call:
    folder.mkdir()
    return Call(
        verb="adopt",
        folder=str(folder),
        bin=str(library.bin),
        socket=str(library.folder),
        port=library.port,
        catalog_dsn=dsn,
        key=(str(key.public), str(key.private), str(key.passphrase_file)),
        cluster=CLUSTER,
        into=str(dump),
    )


def _trace(nursery: Nursery, call: Call) -> list[str]:
    status, moments = nursery.run(call, None)
    assert status == 0
    return moments


def _try(nursery: Nursery, call: Call, at: str) -> None:
    status, _ = nursery.run(call, at)
    assert status == -signal.SIGKILL, at
    assert eventually_nobody(call) == [], at
    before = Path(call.into).read_bytes()
    server = Address(Path(call.bin), Path(call.socket), call.port)
    site = make_site(Path(call.folder), server, call.catalog_dsn, KeyPair(*map(Path, call.key or ())), **CLUSTER)
    for found in site.local.list("full/"):
        if found.key.endswith(f"/{SUMS}"):
            check_stored(site.local, describe_copy(site, site.local, BackupId.parse(found.key.split("/")[1])))
    manifest = adopt(site, "streamflix", Path(call.into)).manifest
    check_stored(site.local, describe_copy(site, site.local, BackupId.parse(manifest.id)))
    [backup] = site.catalog.backups()
    assert (backup.id, backup.state) == (manifest.id, State.CAPTURED), at
    assert Path(call.into).read_bytes() == before

"""Backups of every format that was ever released are proved and recovered by today's code, and by stock tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.golden.make import ROWS
from tests.support.keys import KeyPair
from tests.support.recovered import reading
from tests.support.site import make_site
from tests.support.source import ROOT, Source

from pgbackup.domain.model import Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.target import Latest
from pgbackup.recover import recover_cluster
from pgbackup.restore.rebuild import rebuild
from pgbackup.verify import verify

GOLDEN = ROOT / "tests" / "golden"
FORMATS = sorted(path.name for path in GOLDEN.iterdir() if path.name.isdecimal())


@dataclass(frozen=True)
class Golden:
    """A repository as an earlier version left it; ``latest`` is what its last moment shows."""

    site: Site
    key: KeyPair
    ids: list[str]
    latest: str


@pytest.fixture(params=FORMATS)
def golden(request: pytest.FixtureRequest, tmp_path: Path, server: Source, catalog_dsn: str) -> Golden:
    kept = GOLDEN / request.param
    keys = shutil.copytree(kept / "keys", tmp_path / "keys")
    for path in keys.iterdir():
        path.chmod(0o600)
    key = KeyPair(keys / "golden.pub.asc", keys / "golden.sec.asc", keys / "golden.pass")
    site = make_site(tmp_path, server, catalog_dsn, key)
    shutil.copytree(kept / "repository", site.settings.paths.backups, dirs_exist_ok=True)
    expected = json.loads((kept / "expected.json").read_text())
    return Golden(site, key, expected["ids"], expected["latest"])


def test_there_is_one_of_each_format() -> None:
    assert FORMATS == ["1"]


def test_it_is_proved_again_and_recovered_to_its_last_moment(golden: Golden, server: Source, tmp_path: Path) -> None:
    site = golden.site
    assert sorted(rebuild(site, site.local).recorded) == sorted(golden.ids)
    for backup_id in golden.ids:
        assert verify(site, backup_id, "local").verdict is Verdict.VERIFIED
    recovered = recover_cluster(site, "streamflix", Latest(), into=tmp_path / "recovered")
    with reading(recovered, server, "library") as connection:
        assert connection.execute(ROWS).fetchone() == (golden.latest,)


def test_stock_tools_restore_its_dump(golden: Golden, server: Source) -> None:
    [folder] = (golden.site.settings.paths.backups / "full").iterdir()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    script = [ROOT / "include" / "scripts" / "restore.sh", folder, "--database=library", "--as=golden"]
    options = [
        f"--to={server.conninfo}",
        f"--key={golden.key.private}",
        f"--passphrase-file={golden.key.passphrase_file}",
    ]
    server.execute("DROP DATABASE IF EXISTS golden WITH (FORCE)")
    subprocess.run([*script, *options, f"--bin={server.bin}"], check=True)
    try:
        with server.connect("golden") as connection:
            [rows] = connection.execute("SELECT count(*) FROM book").fetchone() or (None,)
        assert 0 < rows < int(golden.latest.split()[0])  # the later ones came behind the dump
    finally:
        server.execute("DROP DATABASE golden WITH (FORCE)")

"""The sheet in a repository: with it, a private key and stock tools alone, a database comes back."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.test_cli import Shell, shell
from tests.recovery.test_runbook import assigned, room
from tests.support.faulty import FaultyWay
from tests.support.keys import KeyPair
from tests.support.s3 import Region
from tests.support.script_archive import SCRIPTS, TOOLS
from tests.support.source import ROOT, Source, programs

from pgbackup.capture import capture_full
from pgbackup.copy import copy_missing
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.ids import RECOVERY, SUMS
from pgbackup.domain.ports import Site
from pgbackup.sheet import editions, read_sheet, write_sheet
from pgbackup.store import LocalStore

__all__ = ["room", "shell"]

PROTOCOL = b"version: 1\n# every word of it, comments too\n"
NEEDED = f"{TOOLS} chmod cp createdb dirname du env gpg-agent grep psql readlink sed tail tar"


@pytest.fixture
def site(library: Source, site_for: Callable[..., Site], tmp_path: Path) -> Site:
    made = site_for(library)
    return dataclasses.replace(
        made, repositories={**made.repositories, "vault": LocalStore(tmp_path / "vault", name="vault")}
    )


@pytest.fixture
def empty() -> Iterator[Source]:
    own = Source()
    try:
        yield own
    finally:
        own.remove()


def test_one_folder_and_a_key_bring_a_database_back(
    library: Source,
    empty: Source,
    site: Site,
    key: KeyPair,
    room: Path,
    tmp_path: Path,
) -> None:
    """The commands are the sheet's own, as they are printed there; the machine has nothing else of ours."""
    capture_full(site, "streamflix")
    write_sheet(site, "local", PROTOCOL)
    copy_missing(site, "streamflix", "vault")
    written = write_sheet(site, "vault", PROTOCOL)
    (tmp_path / "vault" / "recovery" / "20990101_000000-0123456789abcdef").mkdir()  # of a killed writer: no SHA256SUMS
    copied = room / "repository"
    shutil.copytree(tmp_path / "vault", copied)
    shutil.rmtree(site.settings.paths.backups)
    shutil.rmtree(tmp_path / "vault")

    sheet = (copied / "recovery" / written.edition / "RECOVERY.md").read_text()
    own, line, runbook = sheet.partition("\n---\n")
    assert line
    assert runbook.strip() == (ROOT / "docs" / "runbook.md").read_text().replace("(../include/scripts/", "(").strip()
    first, newest, opened, new_server, beside, others = re.findall(r"^```sh\n(.*?)^```$", own, re.DOTALL | re.MULTILINE)
    steps = [
        *assigned(
            first,
            repository=str(copied),
            work=str(room / "work"),
            key=str(key.private),
            passphrase=str(key.passphrase_file),
        ),
        newest,
        *assigned(opened, server=empty.conninfo, database="library"),
        new_server,
        beside,
        others,
        '"$scripts/restore.sh" "$backup" --list',
    ]
    printed = run(steps, room)
    assert (room / "work" / "protocol.yaml").read_bytes() == PROTOCOL
    assert "library" in printed.splitlines()[-2] + printed.splitlines()[-1]
    question = "SELECT count(*), sum(hashtext(b::text)) FROM book AS b"
    with library.connect("library") as there:
        wanted = there.execute(question).fetchone()
    for database in ("library", "library_restored"):
        with empty.connect(database) as here:
            assert here.execute(question).fetchone() == wanted


def test_the_sheet_says_what_is_where_and_tells_no_secret(site: Site, key: KeyPair) -> None:
    write_sheet(site, "vault", PROTOCOL)
    text = read_sheet(site, site.repositories["vault"])
    assert site.keyring.recipients()[0] in text
    assert str(site.settings.paths.backups) in text
    for info in site.repositories["vault"].list(RECOVERY):
        data = site.repositories["vault"].read(info.key)
        assert PROTOCOL not in data
        assert key.passphrase_file.read_bytes().strip() not in data
        assert b"PRIVATE KEY" not in data
    names = {info.key.rsplit("/", 1)[1] for info in site.repositories["vault"].list(RECOVERY)}
    assert names == {path.name for path in SCRIPTS.iterdir()} | {"RECOVERY.md", "protocol.yaml.gpg", SUMS}


def test_what_has_not_changed_is_not_written_again_and_few_editions_stay(site: Site) -> None:
    store = site.repositories["vault"]
    moment = datetime(2026, 1, 31, 2, tzinfo=UTC)
    written = []
    for number in range(13):
        now = moment + timedelta(days=number)
        at = dataclasses.replace(site, clock=lambda now=now: now)
        protocol = PROTOCOL + str(number).encode()
        written.append(write_sheet(at, "vault", protocol))
        later = dataclasses.replace(site, clock=lambda now=now: now + timedelta(hours=1))
        assert write_sheet(later, "vault", protocol) == dataclasses.replace(written[-1], fresh=False)
        if number == 0:  # a writer is killed before its SHA256SUMS: it counts for nothing, and goes later
            store.delete(f"{RECOVERY}{written[0].edition}/{SUMS}")
            assert editions(store) == ()
            with pytest.raises(RefusedError, match="holds no recovery sheet"):
                read_sheet(site, store)
    assert editions(store) == tuple(one.edition for one in written[-10:])
    assert {info.key.split("/")[1] for info in store.list(RECOVERY)} == set(editions(store))


def test_a_damaged_sheet_is_not_shown(site: Site, tmp_path: Path) -> None:
    edition = write_sheet(site, "vault", PROTOCOL).edition
    path = tmp_path / "vault" / "recovery" / edition / "RECOVERY.md"
    path.write_text(path.read_text().replace("sha256sum --check", "true ||"))
    with pytest.raises(RefusedError, match="does not match its checksum"):
        read_sheet(site, site.repositories["vault"])


def test_a_bucket_holds_it_and_one_that_is_down_is_told(site: Site, region: Region, tmp_path: Path) -> None:
    way = FaultyWay(region.port + 3)
    try:
        far = region.store(tmp_path.name, name="far", endpoint=way.endpoint, timeout="1s")
        site = dataclasses.replace(site, repositories={**site.repositories, "far": far})
        way.refusing = True
        with pytest.raises(UnavailableError):
            write_sheet(site, "far", PROTOCOL)
        way.heal()
        later = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + timedelta(seconds=2))
        assert write_sheet(later, "far", PROTOCOL).fresh
        assert not write_sheet(later, "far", PROTOCOL).fresh
        assert write_sheet(site, "local", PROTOCOL).fresh
        assert read_sheet(site, far) == read_sheet(site, site.local)
    finally:
        way.close()


def test_by_the_command_line_one_that_fails_keeps_no_other_from_it(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    folders = {name: {"folder": str(tmp_path / name)} for name in ("broken", "vault")}
    shell.change(repositories=folders)
    done = shell.run("sheet", "write", "--json")
    assert done.returncode == 1, done.stderr
    assert [(one["repository"], one["fresh"]) for one in json.loads(done.stdout)] == [("local", True), ("vault", True)]
    assert str(tmp_path / "broken") in done.stderr
    shown = shell.run("sheet", "show", "--from", "vault")
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (0, "# Recovery sheet")
    assert f"the folder {tmp_path / 'vault'}" in shown.stdout
    assert shell.run("sheet", "show", "--from", "elsewhere").returncode == 2


def run(steps: list[str], folder: Path) -> str:
    """Carry the commands out with stock tools only; return what they print."""
    for name in NEEDED.split():
        link = folder / "tools" / name
        if not link.exists():
            link.symlink_to(shutil.which(name) or programs() / name)
    env = {"PATH": f"{programs()}:{folder / 'tools'}", "HOME": str(folder)}
    done = subprocess.run(
        ["sh"], input="\n".join(steps), env=env, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

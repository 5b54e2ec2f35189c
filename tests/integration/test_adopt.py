"""Dumps of the old script become backups: proved as far as they can be, never claimed to equal a source."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.test_cli import Shell, shell  # noqa: F401 - a fixture
from tests.support.keys import KeyPair, make_key
from tests.support.source import LIBRARY, Source

from pgbackup.adopt import adopt
from pgbackup.domain import findings as named
from pgbackup.domain.errors import PgBackupError, RefusedError, UnfitError, WrongKeyError
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.manifest import WITHOUT_GLOBALS
from pgbackup.domain.model import State, Verdict, Verification
from pgbackup.domain.ports import Site
from pgbackup.recover import plan_database, recover_database
from pgbackup.recover.rows_text import database_report_text
from pgbackup.report.mail import RunReport, compose
from pgbackup.rotate import apply, plan
from pgbackup.verify import verify

WILD = """
CREATE TABLE "Odd; Name" (a int, "b c" text DEFAULT 'x;y') PARTITION BY LIST (a);
CREATE TABLE part PARTITION OF "Odd; Name" FOR VALUES IN (1);
INSERT INTO "Odd; Name" VALUES (1, NULL), (1, '');
ALTER TABLE part OWNER TO "old; owner";
CREATE UNLOGGED TABLE scratch AS SELECT 1 AS n;
CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER told ON ddl_command_end EXECUTE FUNCTION told();
ALTER FUNCTION told() OWNER TO "old; owner";
ALTER ROLE reporter IN DATABASE old_library SET work_mem = '8MB';
GRANT SELECT ON part TO reporter;
GRANT INSERT (a) ON part TO "old; owner", reporter WITH GRANT OPTION;
ALTER TABLE part ENABLE ROW LEVEL SECURITY;
CREATE POLICY ones ON part FOR SELECT TO reporter, "old; owner" USING (a = 1);
"""
ROWS = {"public.book": 4000, "stock.shelf": 20, "public.part": 2, "public.scratch": 1}


@dataclass(frozen=True)
class Old:
    """What the old script left, and the server that it was taken of."""

    server: Source
    dump: Path
    globals: Path

    def run(self, program: str, *arguments: str) -> None:
        where = ["-h", str(self.server.folder), "-p", str(self.server.port), "-U", "postgres"]
        subprocess.run([str(self.server.bin / program), *where, *arguments], check=True)


@pytest.fixture(scope="module")
def old(server: Source, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    folder = tmp_path_factory.mktemp("old")
    found = Old(server, folder / "old_library_20260131_020000_full.dump", folder / "globals.sql")
    for statement in ('CREATE ROLE "old; owner"', "CREATE ROLE reporter LOGIN", "CREATE DATABASE old_library"):
        server.execute(statement)
    try:
        server.execute(LIBRARY + WILD, "old_library")
        found.run("pg_dump", "-d", "old_library", "-F", "c", "-f", str(found.dump))
        found.run("pg_dumpall", "--globals-only", "-f", str(found.globals))
        yield found
    finally:
        server.execute("DROP DATABASE old_library WITH (FORCE)")
        server.execute('DROP ROLE "old; owner", reporter')


def findings(verification: Verification) -> dict[str, str]:
    return {finding.name: finding.detail for finding in verification.findings}


def seal(dump: Path, key: KeyPair, path: Path) -> None:
    """Encrypt as the old script did: to a recipient."""
    options = ["--batch", "--quiet", "--no-keyring", "--trust-model=always", f"--recipient-file={key.public}"]
    home = path.parent / "gpg"
    home.mkdir(mode=0o700)
    subprocess.run(["gpg", f"--homedir={home}", *options, f"--output={path}", "--encrypt", str(dump)], check=True)


def report_of(verification: Verification) -> RunReport:
    return RunReport("streamflix", "verify backup", True, "run", "link", "", verifications=(verification,))


def committed(site: Site) -> list[str]:
    return [found.key for found in site.local.list("full/") if found.key.endswith(SUMS)]


@pytest.mark.parametrize("complete", [False, True], ids=["dump alone", "with globals"])
def test_it_is_proved_by_itself_and_recovered(
    old: Old, site_for: Callable[..., Site], key: KeyPair, tmp_path: Path, complete: bool
) -> None:
    """Encrypted by the old script, with a checksum beside it, which has to be of the file as it is."""
    site = site_for(
        old.server,
        verify_backup={
            "application_role": "reporter",
            "queries": [{"database": "old_library", "sql": "SELECT count(*) FROM public.part"}],
        },
    )
    path = tmp_path / f"{old.dump.name}.gpg"
    seal(old.dump, key, path)
    Path(f"{path}.md5").write_text(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.name}\n"
    )
    before = {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in tmp_path.iterdir() if one.is_file()}
    began = datetime.now(UTC)

    adopted = adopt(site, "streamflix", path, globals_file=old.globals if complete else None)

    manifest = adopted.manifest
    assert {
        name: (Path(tmp_path, name).read_bytes(), Path(tmp_path, name).stat().st_mtime_ns) for name in before
    } == before
    assert (manifest.method, manifest.fingerprints, manifest.encrypted) == ("adopted", False, True)
    assert (WITHOUT_GLOBALS in manifest.not_included) is not complete
    assert began - timedelta(minutes=10) < manifest.backup_time <= began
    assert manifest.server.version // 10000 == old.server.major
    assert {"postgres", "app", "readonly", "old; owner", "reporter"} <= set(manifest.roles)
    assert not list(site.spool.glob("pgbackup-*"))

    proved = verify(site, manifest.id, "local")
    assert proved.verdict is Verdict.VERIFIED, proved.reason
    assert "not compared with a source" in proved.reason
    told = findings(proved)
    assert not [name for name in told if "equal" in name]
    for table, rows in ROWS.items():
        assert f"{table} {rows}" in told[named.UNCOMPARED]
    assert "1 large objects" in told[named.UNCOMPARED]
    assert {named.INDEXES, named.FOREIGN_KEYS, named.TABLES, named.ROLES, named.QUERIES} <= told.keys()
    assert told[named.APPLICATION] == ("reporter" if complete else "not asked: the dump came without its globals")

    recovered = recover_database(site, plan_database(site, "streamflix", "old_library", name="came_back"))
    try:
        assert recovered.ok, recovered.findings
        texts = (database_report_text(recovered, "-"), compose(report_of(proved))[1])
        assert all("not compared with a source" in text and "equal to its source" not in text for text in texts)
        for table in ROWS:
            question = f"SELECT coalesce(sum(hashtext(t::text)), 0), count(*) FROM {table} AS t"
            with old.server.connect("came_back") as there, old.server.connect("old_library") as here:
                assert there.execute(question).fetchone() == here.execute(question).fetchone()
    finally:
        old.server.execute("DROP DATABASE IF EXISTS came_back")


def cut(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


def flipped(data: bytes) -> bytes:
    place = len(data) * 2 // 3
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def newer(data: bytes) -> bytes:
    """As if a server and a pg_dump of the next decade had made it."""
    return re.sub(
        rb"\x00(.)\x00\x00\x00(1\d\.)", lambda match: b"\0" + match[1] + b"\0\0\0" + b"9" + match[2][1:], data, count=2
    )


def later(data: bytes) -> bytes:
    """In a hundred years: the year stands in the header as an integer."""
    year = datetime.now(UTC).year - 1900
    integer = b"\0" + year.to_bytes(4, "little")
    assert integer in data[:60]
    return data.replace(integer, b"\0" + (year + 100).to_bytes(4, "little"), 1)


@pytest.mark.parametrize(
    ("name", "spoil", "error", "message"),
    [
        ("a.dump", lambda data: data[:20], RefusedError, "header of a.dump is damaged or cut short"),
        ("a.dump", lambda data: data[:2000], RefusedError, "damaged or cut short"),
        ("a.dump", cut, RefusedError, "damaged or cut short"),
        ("a.dump", flipped, RefusedError, "damaged or cut short"),
        ("a.dump", lambda _: b"CREATE TABLE a ();\n", RefusedError, "not a dump in pg_dump's custom format"),
        ("a.dump", lambda _: b"", RefusedError, "not a dump in pg_dump's custom format"),
        ("a.dump", later, RefusedError, "taken in the future"),
        ("a.dump.gpg", lambda data: data, RefusedError, "does not decrypt"),
    ],
    ids=["header cut", "contents cut", "cut", "flipped", "plain SQL", "empty", "future", "not encrypted"],
)
def test_what_is_no_whole_dump_is_refused_and_nothing_is_published(
    old: Old,
    site_for: Callable[..., Site],
    tmp_path: Path,
    name: str,
    spoil: Callable[[bytes], bytes],
    error: type[PgBackupError],
    message: str,
) -> None:
    site = site_for(old.server)
    path = tmp_path / name
    path.write_bytes(spoil(old.dump.read_bytes()))
    with pytest.raises(error, match=re.escape(message)):
        adopt(site, "streamflix", path)
    assert path.read_bytes() == spoil(old.dump.read_bytes())
    assert not list(site.local.list(""))
    assert site.catalog.backups() == ()


def test_what_does_not_belong_together_is_refused(old: Old, site_for: Callable[..., Site], tmp_path: Path) -> None:
    site = site_for(old.server)
    definitions = tmp_path / "definitions.dump"
    old.run("pg_dump", "-d", "old_library", "-F", "c", "--schema-only", "-f", str(definitions))
    with pytest.raises(RefusedError, match="holds no rows"):
        adopt(site, "streamflix", definitions)
    with pytest.raises(RefusedError, match="another database"):
        adopt(site, "streamflix", old.dump, database="streamflix")
    fewer = tmp_path / "globals.sql"
    fewer.write_text(old.globals.read_text().replace("CREATE ROLE reporter;", ""))
    with pytest.raises(RefusedError, match="names roles that it does not make: reporter"):
        adopt(site, "streamflix", old.dump, globals_file=fewer)
    with pytest.raises(RefusedError, match="no dump of the globals"):
        adopt(site, "streamflix", old.dump, globals_file=definitions)
    beside = tmp_path / "a.dump"
    beside.write_bytes(old.dump.read_bytes())
    (tmp_path / "a.dump.sha256").write_text("0" * 64 + "  a.dump\n")
    with pytest.raises(RefusedError, match=r"does not match a\.dump\.sha256"):
        adopt(site, "streamflix", beside)
    assert committed(site) == []


def test_what_this_machine_cannot_read_is_told(old: Old, site_for: Callable[..., Site], tmp_path: Path) -> None:
    site = site_for(old.server)
    paths = site.settings.paths.model_copy(update={"postgres_bin": old.server.bin.parents[1] / "{major}" / "bin"})
    site = dataclasses.replace(site, settings=site.settings.model_copy(update={"paths": paths}))
    future = tmp_path / "future.dump"
    future.write_bytes(newer(old.dump.read_bytes()))
    with pytest.raises(UnfitError, match="no PostgreSQL programs"):
        adopt(site, "streamflix", future)
    strange = make_key(tmp_path / "keys", "stranger")
    sealed = tmp_path / "sealed.dump.gpg"
    seal(old.dump, strange, sealed)
    with pytest.raises(WrongKeyError, match="none of our private keys opens"):
        adopt(site, "streamflix", sealed)
    assert not list(site.local.list(""))


def test_an_id_is_given_once(old: Old, site_for: Callable[..., Site], tmp_path: Path) -> None:
    """The same dump is found again; what a killed adoption left is cleaned, or recorded; another dump is refused."""
    site = site_for(old.server)
    first = adopt(site, "streamflix", old.dump)
    assert (first.known, adopt(site, "streamflix", old.dump).known) == (False, True)
    folder = site.settings.paths.backups / "full" / first.manifest.id

    (folder / SUMS).rename(tmp_path / SUMS)  # as a kill before the commit point leaves it
    site.catalog.expire(first.manifest.id, repository="local")
    with pytest.raises(RefusedError, match="as expired"):
        adopt(site, "streamflix", old.dump)
    later_moment = first.manifest.backup_time + timedelta(hours=1) - timedelta(days=1)
    second = adopt(site, "streamflix", old.dump, taken_at=later_moment)
    assert second.manifest.id == str(BackupId.at("streamflix", later_moment, first.manifest.kind))
    assert not folder.exists()

    other = tmp_path / "other.dump"
    old.run("pg_dump", "-d", "streamflix", "-F", "c", "-f", str(other))
    with pytest.raises(RefusedError, match="there is another backup"):
        adopt(site, "streamflix", other, taken_at=later_moment)
    assert [key.split("/")[1] for key in committed(site)] == [second.manifest.id]


def test_old_files_stay_beside_ours_and_age_as_ours_do(old: Old, site_for: Callable[..., Site], tmp_path: Path) -> None:
    """They lie in the very folder that holds our backups; captures and rotations leave them alone."""
    site = site_for(old.server)
    folder = site.settings.paths.backups / "full"
    folder.mkdir(mode=0o700, parents=True)
    files = [folder / "streamflix_20260131_020000_full.dump", folder / "streamflix_20250101_020000.dump"]
    for path in files:
        path.write_bytes(old.dump.read_bytes())
        os.utime(path, (0, 0))
    now = datetime.now(UTC)
    moments = [now - timedelta(days=days) for days in (1, 800, 801, 3000)]
    for moment in moments:
        manifest = adopt(site, "streamflix", files[0], taken_at=moment).manifest
        assert manifest.started_at == manifest.backup_time == moment
    with pytest.raises(RefusedError, match="in the future"):
        adopt(site, "streamflix", files[0], taken_at=now + timedelta(hours=1))
    listed = site.catalog.backups("streamflix")
    assert [backup.backup_time for backup in listed] == moments
    assert {(backup.method, backup.state) for backup in listed} == {("adopted", State.CAPTURED)}
    verified = verify(site, listed[0].id, "local")
    assert verified.verdict is Verdict.VERIFIED
    planned = plan(site, "streamflix", "local")
    kept = {fate.backup.id: fate.rules for fate in planned.fates}
    assert kept[listed[0].id]
    assert {listed[1].id, listed[2].id, listed[3].id} == {one.id for one in planned.going}  # nobody proved them
    apply(site, planned.document())
    assert len(committed(site)) == 1
    assert all(path.read_bytes() == old.dump.read_bytes() for path in files)


def test_a_folder_by_the_command_line(old: Old, shell: Shell, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "a.dump").write_bytes(old.dump.read_bytes())
    (folder / "0.dump").write_bytes(cut(old.dump.read_bytes()))
    (folder / "notes.txt").write_text("no dump")
    done = shell.run("adopt", str(folder), "--json", "--verify", "--globals", str(old.globals))
    assert done.returncode == 1, done.stderr
    [one] = json.loads(done.stdout)
    assert (one["file"], one["databases"], one["verification"]["verdict"]) == (
        str(folder / "a.dump"),
        ["old_library"],
        "verified",
    )
    assert "0.dump is damaged or cut short" in done.stderr
    assert [found["method"] for found in shell.json("list")] == ["adopted"]
    assert shell.run("adopt", str(folder), "--taken-at", "2026-01-31T02:00:00Z").returncode == 2
    assert shell.run("adopt", str(folder / "none")).returncode == 2

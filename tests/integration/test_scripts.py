"""The shell scripts for the day when Airflow and Python are gone: real backups, real servers, no Python on the PATH."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.support.keys import KeyPair, make_key
from tests.support.source import ROOT, Source

from pgbackup.capture import capture_full
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ids import SIGNATURE, SUMS, encode_database
from pgbackup.domain.manifest import Content
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Encryption
from pgbackup.domain.sums import format_sums, parse_sums
from pgbackup.postgres import describe
from pgbackup.postgres.connection import connect
from pgbackup.stream import GpgKeyring

SCRIPTS = ROOT / "include" / "scripts"
TOOLS = """awk base64 cat chmod chown cmp cp cut date dash df dirname du grep head id mkdir mkfifo mktemp mv od readlink
rm rmdir sed setpriv sha256sum sh sleep sort sync tail tar touch tr true test uname unshare wc zstd gpg gpgconf"""
ODD = "o'brien\"s\nnew $(touch pwned) `touch pwned` \\ ü; %41"
NAMES = (ODD, "../x/y", "-rf", "dbname=postgres user=nobody", "key.1", ".%2F")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the stock tools, and nothing else, least of all Python."""
    folder = tmp_path_factory.mktemp("tools")
    for name in TOOLS.split():
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    assert not list(folder.glob("python*"))
    return folder


@pytest.fixture
def run(tools: Path, tmp_path: Path, server: Source) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a script with the stock tools and PostgreSQL on its PATH; it leaves no temporary file behind."""
    temporary = tmp_path / "tmp dir"  # with a blank: scripts have to quote
    temporary.mkdir()
    environment = environment_of(tools, server, temporary)
    assert shutil.which("python3", path=environment["PATH"]) is None

    def call(script: str, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        argv = [str(SCRIPTS / script), *map(str, arguments)]
        done = subprocess.run(
            argv,
            check=False,
            env={**environment, **(env or {})},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        sys.stdout.write(f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}\n")
        return done

    yield call
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "pwned").exists()


def environment_of(tools: Path, server: Source, temporary: Path) -> dict[str, str]:
    return {"PATH": f"{tools}:{server.bin}", "HOME": str(temporary.parent), "TMPDIR": str(temporary)}


def reach(source: Source) -> dict[str, str]:
    return {"PGHOST": str(source.folder), "PGPORT": str(source.port), "PGUSER": "postgres"}


def conninfo(source: Source) -> str:
    return f"host={source.folder} port={source.port} user=postgres"


def create(source: Source, name: str, value: str) -> None:
    with source.connect("postgres") as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY file_copy").format(sql.Identifier(name))
        )
    with source.connect(name) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL)")
        connection.execute("INSERT INTO t VALUES (1, %s)", (value,))


def value(source: Source, name: str) -> str:
    with source.connect(name) as connection:
        row = connection.execute("SELECT v FROM t").fetchone()
    assert row is not None
    return str(row[0])


def databases(source: Source) -> set[str]:
    with source.connect("postgres") as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def fingerprints(source: Source, database: str) -> dict[tuple[str, str], Content]:
    """Every table's content as the engine's own fingerprint sees it."""
    parameters = ConnectionParameters({"host": str(source.folder), "port": str(source.port), "user": "postgres"})
    with connect(parameters, database) as connection:
        return {(one.schema_name, one.name): describe.content(connection, one) for one in describe.tables(connection)}


@pytest.fixture(scope="module")
def odd() -> Iterator[Source]:
    """A server whose databases have names that break careless scripts."""
    own = Source()
    try:
        own.execute('CREATE ROLE "an \'odd\' ""role""" PASSWORD \'secret\'')
        own.execute('CREATE ROLE member IN ROLE "an \'odd\' ""role"""')
        for name in NAMES:
            create(own, name, f"content of {name}")
        # What a restore elsewhere has not, and what would keep a restore from writing.
        folder = own.folder / "tablespace"
        folder.mkdir()
        shutil.chown(folder, own.data.owner(), own.data.group())
        own.execute(f"CREATE TABLESPACE fast LOCATION '{folder}'")
        own.execute('ALTER DATABASE "-rf" SET TABLESPACE fast')
        own.execute('ALTER DATABASE "-rf" SET default_transaction_read_only = on')
        yield own
    finally:
        own.remove()


@pytest.fixture(scope="module")
def target() -> Iterator[Source]:
    """The server to recover to: another one, without roles or databases."""
    own = Source()
    try:
        yield own
    finally:
        own.remove()


def key_options(key: KeyPair) -> list[str]:
    return [f"--key={key.private}", f"--passphrase-file={key.passphrase_file}"]


def directory_of(site: Site, backup_id: str) -> Path:
    return site.settings.paths.backups / "full" / backup_id


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("encrypted", "jobs", "verified"),
    [(True, 1, True), (True, 2, False), (False, 1, False), (False, 2, False)],
    ids=["dump.gpg", "dir.tar.gpg", "dump", "dir.tar"],
)
def test_what_the_engine_stored_is_verified_and_restored_without_it(
    streamflix: Source,
    target: Source,
    site_for: Callable[..., Site],
    key: KeyPair,
    run: Run,
    encrypted: bool,
    jobs: int,
    verified: bool,
) -> None:
    site = site_for(streamflix, encrypted=encrypted, full_backup={"jobs": jobs})
    directory = directory_of(site, capture_full(site, "streamflix").id)
    options = key_options(key) if encrypted else []

    if verified:
        done = run("verify_backup.sh", directory, *options)
        assert done.returncode == 0
        assert done.stdout.endswith("verdict: verified\n")
        assert "content" in done.stdout
        assert "FAILED" not in done.stdout

    name = f"back {encrypted} {jobs}"
    restore = ["--database=streamflix", f"--as={name}", "--to", conninfo(target), "--globals", *options]
    done = run("restore.sh", directory, *restore)
    assert done.returncode == 0
    assert fingerprints(target, name) == fingerprints(streamflix, "streamflix")
    with target.connect(name) as connection:
        described = describe.rows(connection, "database")[0]
        row = connection.execute("SELECT datacl::text FROM pg_database WHERE datname = current_database()").fetchone()
    with streamflix.connect("streamflix") as connection:
        wanted = describe.rows(connection, "database")[0]
        assert row == connection.execute("SELECT datacl::text FROM pg_database WHERE datname = 'streamflix'").fetchone()
    varying = {"bytes"}
    assert {k: v for k, v in described.items() if k not in varying} == {
        k: v for k, v in wanted.items() if k not in varying
    }

    again = run("restore.sh", directory, *restore)
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_one_table_comes_back_with_its_partitions(
    streamflix: Source, target: Source, site_for: Callable[..., Site], run: Run
) -> None:
    site = site_for(streamflix, encrypted=False)
    directory = directory_of(site, capture_full(site, "streamflix").id)
    table = ["--database=streamflix", "--to", conninfo(target), "--globals"]
    done = run("restore.sh", directory, *table, "--table=public.WatchEvent", "--as=one table")
    assert done.returncode == 0
    assert "public.WatchEvent: 4600 rows" in done.stdout
    assert "ALTER DATABASE" not in done.stdout
    wanted, found = fingerprints(streamflix, "streamflix"), fingerprints(target, "one table")
    parts = {name for name in wanted if name[1].startswith("WatchEvent")}
    assert len(parts) > 12
    assert {name: found[name] for name in parts} == {name: wanted[name] for name in parts}
    assert all(found[name].rows == 0 for name in found.keys() - parts)
    with target.connect("one table") as connection:
        row = connection.execute(
            """SELECT count(*) FROM pg_index WHERE indrelid = '"WatchEvent"'::regclass"""
        ).fetchone()
    assert row == (3,)

    before = databases(target)
    missing = run("restore.sh", directory, *table, "--table=public.watchevent")
    assert missing.returncode == 1
    assert databases(target) == before

    tables = run("restore.sh", directory, "--list", "--database=streamflix")
    assert "public.WatchEvent" in tables.stdout.splitlines()
    assert "public.TABLE" not in tables.stdout


def test_a_backup_by_script_is_verified_and_restored_whatever_its_databases_are_called(
    odd: Source, target: Source, key: KeyPair, tmp_path: Path, run: Run
) -> None:
    repository = tmp_path / "back ups"
    repository.mkdir()
    made = run("backup.sh", f"--backups={repository}", f"--recipient={key.public}", env=reach(odd))
    assert made.returncode == 0
    directory = Path(made.stdout.rstrip("\n"))
    assert directory.parent == repository / "full"
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    stored = {path.name for path in directory.iterdir()}
    assert stored == {f"{encode_database(name)}.dump.gpg" for name in (*NAMES, "postgres")} | {
        "globals.sql.gpg",
        "key.1.gpg",
        SUMS,
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in [directory, *directory.iterdir()])
    digests = {name: sha256((directory / name).read_bytes()).hexdigest() for name in stored - {SUMS}}
    assert parse_sums((directory / SUMS).read_bytes(), source="test") == digests

    verified = run("verify_backup.sh", directory, *key_options(key))
    assert verified.returncode == 0
    assert "verdict: verified" in verified.stdout

    create(target, ODD, "newer")
    restored = run(
        "restore.sh", directory, "--database", ODD, "--as", "b\n\"'", "--to", conninfo(target), *key_options(key)
    )
    assert restored.returncode == 0
    assert value(target, "b\n\"'") == f"content of {ODD}"
    with target.connect(ODD):  # as an application that does not want to go
        cutover = restored.stdout.split("# Should a RENAME fail")[0]
        path = os.pathsep.join([str(target.bin), os.environ["PATH"]])
        subprocess.run(
            ["sh", "-e"], input=cutover, text=True, check=True, env={"PATH": path}, stdout=subprocess.DEVNULL
        )
    assert value(target, ODD) == f"content of {ODD}"
    assert len([name for name in databases(target) if name.startswith("before_")]) == 1


def test_roles_that_exist_are_left_alone(odd: Source, source: Source, tmp_path: Path, run: Run) -> None:
    made = run("backup.sh", f"--backups={tmp_path}", "--no-encrypt", env=reach(odd))
    source.execute("CREATE ROLE member CONNECTION LIMIT 7")
    restored = run("restore.sh", made.stdout.strip(), "--globals", "--to", conninfo(source))
    assert restored.returncode == 0
    with source.connect() as connection:
        roles = dict(
            connection.execute("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname !~ '^pg_'").fetchall()
        )
        members = connection.execute("SELECT count(*) FROM pg_auth_members WHERE member = 'member'::regrole").fetchone()
    assert roles["member"] == 7
    assert members == (0,)
    assert "an 'odd' \"role\"" in roles


def rewrite(directory: Path, change: Callable[[str], str]) -> None:
    """Change the manifest and make the checksums fit, as only a forger or a bug would."""
    manifest = directory / "manifest.json"
    manifest.write_text(change(manifest.read_text()))
    digests = parse_sums((directory / SUMS).read_bytes(), source="test")
    digests["manifest.json"] = sha256(manifest.read_bytes()).hexdigest()
    (directory / SUMS).write_bytes(format_sums(digests))


def test_rows_that_are_not_the_sources_are_rejected(odd: Source, site_for: Callable[..., Site], run: Run) -> None:
    superuser = odd.parameters("postgres")
    with odd.connect(ODD) as connection:
        connection.execute("CREATE TABLE child (id int REFERENCES t)")
        connection.execute("SET session_replication_role = replica")
        connection.execute("INSERT INTO child VALUES (2)")
    site = site_for(
        odd, encrypted=False, parameters=superuser, full_backup={"jobs": 2}, exclude_databases=list(NAMES[1:])
    )
    manifest = capture_full(site, "streamflix")
    with odd.connect(ODD) as connection:
        connection.execute("DROP TABLE child")
    directory = directory_of(site, manifest.id)
    done = run("verify_backup.sh", directory)
    assert done.returncode == 0
    assert "violated by the rows of the source itself" in done.stdout

    content = manifest.database(ODD).tables[-1].content
    assert content is not None
    rewrite(directory, lambda text: text.replace(f'"hash": "{content.hash}"', '"hash": "1"'))
    done = run("verify_backup.sh", directory)
    assert done.returncode == 1
    assert "FAILED  content" in done.stdout
    assert "public.t has as many rows, but others" in done.stdout
    assert "verdict: rejected" in done.stdout


@pytest.fixture
def stored(streamflix: Source, site_for: Callable[..., Site]) -> Path:
    """An encrypted backup by the engine that a test may damage."""
    site = site_for(streamflix)
    return directory_of(site, capture_full(site, "streamflix").id)


def test_damage_is_found_before_anything_is_touched(stored: Path, target: Source, key: KeyPair, run: Run) -> None:
    before = databases(target)
    restore = ["--database=streamflix", "--as=damaged", "--to", conninfo(target), *key_options(key)]

    def refused(message: str) -> None:
        verified = run("verify_backup.sh", stored, *key_options(key))
        assert verified.returncode == 1
        assert verified.stdout.endswith("verdict: rejected\n")
        assert message in verified.stderr

    extra = stored / "extra.dump.gpg"
    extra.touch()
    refused("extra.dump.gpg is not in SHA256SUMS")
    extra.unlink()

    dump = stored / "streamflix.dump.gpg"
    whole = dump.read_bytes()
    dump.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    refused("does not match its checksum: streamflix.dump.gpg")
    restored = run("restore.sh", stored, *restore)
    assert restored.returncode == 1
    assert "does not match its checksum: streamflix.dump.gpg" in restored.stderr

    digests = parse_sums((stored / SUMS).read_bytes(), source="test")
    digests[dump.name] = sha256(dump.read_bytes()).hexdigest()
    (stored / SUMS).write_bytes(format_sums(digests))
    refused("streamflix.dump.gpg does not decrypt")

    dump.unlink()
    refused("streamflix.dump.gpg is missing")
    (stored / SUMS).write_bytes(b"not a checksum  x\n")
    refused("SHA256SUMS is damaged")
    (stored / SUMS).unlink()
    refused("not a complete backup")
    assert databases(target) == before


def test_keys_that_were_added_open_and_forged_ones_do_not_matter(
    stored: Path, site_for: Callable[..., Site], streamflix: Source, key: KeyPair, tmp_path: Path, run: Run
) -> None:
    site, new = site_for(streamflix), make_key(tmp_path / "new", "new")
    passphrase = site.keyring.unwrap((stored / "key.1.gpg").read_bytes())
    only_new = GpgKeyring(Encryption(recipients=(new.public,)), site.runner)

    def tables(pair: KeyPair) -> subprocess.CompletedProcess[str]:
        return run("restore.sh", stored, "--list", "--database=streamflix", *key_options(pair))

    (stored / "key.2.gpg").write_bytes(only_new.wrap(passphrase))
    (stored / "key.3.gpg").write_bytes(b"rubbish")
    (stored / "key.10.gpg").write_bytes(only_new.wrap(b"not it\n"))
    (stored / "key.11.gpg").write_bytes(site.keyring.wrap(b"not it\n"))
    (stored / "SHA256SUMS.sig").write_bytes(b"signature")
    assert "WatchEvent" in tables(key).stdout
    (stored / "key.1.gpg").write_bytes(b"rubbish")
    assert "WatchEvent" in tables(new).stdout
    refused = tables(key)
    assert refused.returncode == 1
    assert all(f"key.{number}.gpg:" in refused.stderr for number in (1, 2, 3, 10, 11))


def test_a_missing_key_is_no_verdict(stored: Path, target: Source, tmp_path: Path, run: Run) -> None:
    other = make_key(tmp_path / "other", "other")
    done = run("verify_backup.sh", stored, *key_options(other))
    assert done.returncode == 3
    assert "no private key here opens this backup" in done.stderr
    assert "verdict: none" in done.stdout
    done = run("restore.sh", stored, "--database=postgres", "--to", conninfo(target))
    assert done.returncode == 3
    assert "no private key here opens this backup" in done.stderr


def test_statements_that_fail_are_no_success(
    streamflix: Source, source: Source, site_for: Callable[..., Site], run: Run
) -> None:
    source.execute("DROP DATABASE streamflix")
    source.execute("DROP ROLE readonly, app")
    site = site_for(streamflix, encrypted=False)
    directory = directory_of(site, capture_full(site, "streamflix").id)
    done = run("restore.sh", directory, "--database=streamflix", "--as=streamflix", "--to", conninfo(source))
    assert done.returncode == 1
    assert 'role "app" does not exist' in done.stderr
    assert "--globals" in done.stderr
    assert "streamflix" not in databases(source)
    assert [name for name in databases(source) if name.startswith("restoring_")]


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_a_backup_by_script_is_signed_as_the_engine_signs(
    library: Source, site_for: Callable[..., Site], key: KeyPair, tmp_path: Path, run: Run, encrypted: bool
) -> None:
    signer = make_key(tmp_path / "signer's key", "signer", encrypts=False)
    backup = [f"--backups={tmp_path}", f"--recipient={key.public}" if encrypted else "--no-encrypt"]
    environment = {**reach(library), "SIGNING_KEY": str(signer.private)}
    for wrong in ({}, {"SIGNING_PASSPHRASE_FILE": str(key.passphrase_file)}, {"SIGNING_KEY": str(signer.public)}):
        refused = run("backup.sh", *backup, env={**environment, **wrong})
        assert refused.returncode == 3
        assert "sign" in refused.stderr
        assert list((tmp_path / "full").iterdir()) == []
    made = run("backup.sh", *backup, f"--signing-passphrase-file={signer.passphrase_file}", env=environment)
    assert made.returncode == 0
    directory = Path(made.stdout.rstrip("\n"))
    sums, signature = (directory / SUMS).read_bytes(), (directory / SIGNATURE).read_bytes()
    assert SIGNATURE not in parse_sums(sums, source="test")
    runner = site_for(library).runner
    ours, others = (Encryption(recipients=(key.public,), verify_keys=(one.public,)) for one in (signer, key))
    GpgKeyring(ours, runner).check_signature(sums, signature)
    with pytest.raises(RefusedError):
        GpgKeyring(others, runner).check_signature(sums, signature)
    verified = run("verify_backup.sh", directory, *(key_options(key) if encrypted else ()))
    assert verified.returncode == 0


def test_a_dump_that_fails_publishes_nothing(odd: Source, key: KeyPair, tmp_path: Path, tools: Path, run: Run) -> None:
    backup = [f"--backups={tmp_path}", f"--recipient={key.public}"]
    nowhere = run("backup.sh", *backup, env={**reach(odd), "PGPORT": "1"})
    assert nowhere.returncode == 3
    assert "cannot connect to the server" in nowhere.stderr
    passwords = tmp_path / "pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text("*:*:*:*:wrong\n")
    odd.execute("ALTER ROLE postgres PASSWORD 'right'")
    refused = run("backup.sh", *backup, env={**reach(odd), "PGHOST": "127.0.0.1", "PGPASSFILE": str(passwords)})
    assert refused.returncode == 3
    assert "password authentication failed" in refused.stderr
    assert not (tmp_path / "full").exists()

    unknown = run("backup.sh", f"--backups={tmp_path}", "--recipient=/nobody.asc", env=reach(odd))
    assert unknown.returncode == 3

    temporary = tmp_path / "tmp dir"
    environment = {**environment_of(tools, odd, temporary), **reach(odd)}
    for stop in ("the server ends the session", "the script is told to end"):
        with odd.connect("key.1") as blocker, odd.connect("postgres") as watcher:
            blocker.autocommit = False
            blocker.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            script = subprocess.Popen(
                [SCRIPTS / "backup.sh", *backup], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
            )
            pid = waiting(watcher)
            assert [path for path in (tmp_path / "full").iterdir() if path.name.startswith(".unfinished-")]
            if stop == "the server ends the session":
                watcher.execute("SELECT pg_terminate_backend(%s)", (pid,))
            else:
                script.send_signal(signal.SIGTERM)
            output, errors = script.communicate(timeout=60)
            assert script.returncode == (3 if stop == "the server ends the session" else 143), errors
            assert output == b""
        assert list((tmp_path / "full").iterdir()) == []


def waiting(watcher: psycopg.Connection[tuple[object, ...]]) -> int:
    """Wait until pg_dump waits for a lock; return its backend's pid."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = watcher.execute(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
        ).fetchone()
        if found:
            return int(str(found[0]))
        time.sleep(0.02)
    raise AssertionError("pg_dump never came to the locked table")


@pytest.mark.parametrize("script", ["backup.sh", "verify_backup.sh", "restore.sh"])
def test_wrong_calls(script: str, tmp_path: Path, run: Run) -> None:
    told = run(script, "--help")
    assert told.returncode == 0
    assert told.stdout.startswith("usage: ")
    unknown = run(script, "--no-such-option")
    assert unknown.returncode == 2
    assert "unknown option: --no-such-option" in unknown.stderr
    assert run(script).returncode == 2


def test_calls_that_would_leak_or_guess_are_refused(tmp_path: Path, run: Run) -> None:
    wrong = [
        ("restore.sh", tmp_path, "--database=x"),
        ("restore.sh", tmp_path, "--database=x", "--to=host=a password=b"),
        ("restore.sh", tmp_path, "--database=x", "--to=postgresql://a"),
        ("restore.sh", tmp_path, "--database=x", "--to=host=a", "--table=unqualified"),
        ("restore.sh", tmp_path, "--database=x", "--to=host=a", "--jobs=many"),
        ("restore.sh", tmp_path, "--database=" + 60 * "x", "--to=host=a"),
        ("backup.sh", f"--backups={tmp_path}", "--cluster=../x", "--no-encrypt"),
        ("backup.sh", f"--backups={tmp_path}"),
    ]
    for script, *arguments in wrong:
        assert run(script, *arguments).returncode == 2
    assert run("backup.sh", f"--backups={tmp_path}/absent", "--no-encrypt").returncode == 3


def test_the_scripts_are_posix_and_clean() -> None:
    scripts = sorted(SCRIPTS.glob("*.sh"))
    assert len(scripts) >= 4
    subprocess.run([Path(sys.executable).parent / "shellcheck", "-s", "sh", *scripts], check=True, cwd=ROOT)
    for script in scripts:
        assert os.access(script, os.X_OK) == script.read_text().startswith("#!/bin/sh\n")
        assert "python" not in script.read_text().lower().replace("python are gone", "")

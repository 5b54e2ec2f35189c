"""archive_wal.sh and restore_wal.sh: real servers archive and recover with them; no fault ends a recovery early."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from tests.support.keys import KeyPair, make_key
from tests.support.script_archive import (
    CLUSTER,
    TOOLS,
    Recovered,
    ScriptArchive,
    archived,
    ask,
    configure,
    finish_segment,
    give,
    make_tools,
    script_archive,
    wait,
)
from tests.support.source import ROOT, Source

from pgbackup.domain.model import Command
from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Sealed, Segment, parse_sealed
from pgbackup.restore.archive import fetch_wal, list_archive
from pgbackup.store import LocalStore

FRAGMENTS = ROOT / "include" / "postgres"
ROWS = "SELECT count(*) || ' ' || sum(id) FROM entry"
SEGMENT = 16 << 20


@pytest.fixture(scope="module")
def archive(key: KeyPair) -> Iterator[ScriptArchive]:
    """A base backup without its WAL, then rows of several clients, all archived while they were written."""
    with script_archive(key) as made:
        made.source.execute("CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)")
        options = ["--checkpoint=fast", "--no-sync", "--wal-method=none", "-U", "postgres"]
        where = ["-h", str(made.source.folder), "-p", str(made.source.port), "-D", str(made.folder / "base")]
        made.source._run("pg_basebackup", *options, *where)
        write(made.source, seconds=2)
        archived(made.source)
        yield made


def write(source: Source, *, seconds: float) -> None:
    end = time.monotonic() + seconds

    def client() -> None:
        with source.connect("postgres") as connection:
            while time.monotonic() < end:
                connection.execute("INSERT INTO entry (text) SELECT md5(random()::text) FROM generate_series(1, 50)")

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    while time.monotonic() < end:
        finish_segment(source)
        time.sleep(seconds / 8)
    for one in clients:
        one.join()


@pytest.fixture
def copy(archive: ScriptArchive, tmp_path: Path) -> ScriptArchive:
    """The same archive in a repository that a test may damage."""
    repository = archive.folder / f"copy {tmp_path.name}"
    shutil.copytree(archive.repository, repository)
    give(archive.source, repository)
    return replace(archive, repository=repository)


@pytest.fixture
def empty(archive: ScriptArchive, tmp_path: Path) -> ScriptArchive:
    """An empty repository."""
    repository = tmp_path / "repo sitory"
    repository.mkdir()
    return replace(archive, repository=repository)


@contextlib.contextmanager
def recovered(archive: ScriptArchive) -> Iterator[Recovered]:
    server = Recovered(archive, archive.folder / "base")
    try:
        yield server
    finally:
        server.remove()


def test_a_recovery_has_every_row_and_goes_on_along_the_next_timeline(copy: ScriptArchive) -> None:
    expected = ask(copy.source, ROWS)
    assert any(copy.timelines.glob("*/*.backup-*.json"))
    with recovered(copy) as first:
        configure(first, archive_mode="on", archive_command=copy.command(copy.archiver(), "%p"))
        assert first.recover()
        assert ask(first, ROWS) == expected
        first.execute("INSERT INTO entry (text) SELECT 'after' FROM generate_series(1, 1000)")
        archived(first)
        expected = ask(first, ROWS)
    assert (copy.timelines / "00000002").is_dir()
    with recovered(copy) as second:
        assert second.recover()
        assert ask(second, ROWS) == expected
        assert ask(second, "SELECT timeline_id FROM pg_control_checkpoint()") == "3"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_whatever_is_wrong_recovery_stops_and_later_goes_on(copy: ScriptArchive) -> None:
    expected = ask(copy.source, ROWS)
    data, sidecar = copy.files(copy.names()[-3])
    away = copy.folder / "away"
    secret = copy.key.passphrase_file
    faults: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "a hole": (sidecar, Path.unlink),
        "bytes missing": (data, Path.unlink),
        "bit flipped": (data, flip),
        "cut": (data, cut),
        "not mounted": (copy.repository, lambda path: path.rename(away)),
        "wrong passphrase": (secret, lambda path: path.write_text("wrong")),
        "disk full": (copy.folder / "full", Path.touch),
    }
    with recovered(copy) as server:
        for name, (path, fault) in faults.items():
            before = path.read_bytes() if path.is_file() else None
            if path == secret:  # or the agent remembers
                subprocess.run(["gpgconf", f"--homedir={copy.gpg_home}", "--kill", "all"], check=True)
            fault(path)
            assert not server.recover(), name
            assert not (server.data / "pg_wal" / "00000002.history").exists(), name
            if before is not None:
                path.write_bytes(before)
            elif path == copy.repository:
                away.rename(path)
            else:
                path.unlink()
            give(copy.source, path)
        assert server.recover()
        assert ask(server, ROWS) == expected


def test_a_full_disk_is_counted_and_then_archiving_goes_on(archive: ScriptArchive) -> None:
    failed = "SELECT failed_count FROM pg_stat_archiver"
    before = int(ask(archive.source, failed))
    (archive.folder / "full").touch()
    name = finish_segment(archive.source)
    wait(lambda: int(ask(archive.source, failed)) > before)
    assert not archive.files(name)
    (archive.folder / "full").unlink()
    wait((archive.source.data / "pg_wal" / "archive_status" / f"{name}.done").exists)
    assert name in archive.names()
    assert not [path for path in archive.timelines.iterdir() if path.name.startswith(".")]


def test_the_engine_reads_what_the_script_sealed(
    archive: ScriptArchive, site_for: Callable[..., Site], tmp_path: Path
) -> None:
    site, store = site_for(archive.source), LocalStore(archive.repository)
    listing = list_archive(store, CLUSTER, archive.system)
    assert (listing.conflicts, listing.segment_size) == ((), SEGMENT)
    assert [segment.name for segment in sorted(listing.segments)] == archive.names()
    with site.keyring.opened() as unlock:
        fetch_wal(site, store, list(listing.segments.values()), tmp_path / "wal", unlock, jobs=2)
    assert len(archive.names()) > 4
    for name in archive.names():
        assert (tmp_path / "wal" / name).read_bytes() == archive.original(name).read_bytes()
        segment = Segment.parse(name, SEGMENT)
        data, sidecar = archive.files(name)
        key = sidecar.relative_to(archive.repository).as_posix()
        sealed = parse_sealed(sidecar.read_bytes(), source=key)
        assert (sealed.start_lsn, sealed.end_lsn) == (str(segment.start), str(segment.end))
        assert sealed.stored_bytes == data.stat().st_size
        assert data.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_script_restores_what_the_engine_sealed(
    empty: ScriptArchive, archive: ScriptArchive, site_for: Callable[..., Site], tmp_path: Path, encrypted: bool
) -> None:
    site, store = site_for(archive.source, encrypted=encrypted), LocalStore(empty.repository)
    name = archive.names()[1]
    original = archive.original(name)
    digest = sha256(original.read_bytes()).hexdigest()
    stem = f"wal/{CLUSTER}/{empty.system}/00000001/{name}-{digest}"
    compress = Command(("zstd", "-1", "--quiet", "--stdout"))
    key = f"{stem}.zst{'.gpg' if encrypted else ''}"
    with original.open("rb", buffering=0) as file, store.create(key) as sink:
        piped = site.runner.pipe(file, through=(compress, *site.keyring.seal()), sink=sink)
    assert empty.restore(name, tmp_path / "got").returncode == 1  # not sealed yet
    sealed = Sealed(
        cluster=CLUSTER,
        name=name,
        system_identifier=empty.system,
        timeline=1,
        plain_bytes=SEGMENT,
        plain_sha256=digest,
        stored_bytes=piped.sink.bytes,
        stored_sha256=piped.sink.sha256,
        encrypted=encrypted,
        sealed_at=datetime.now(UTC),
    )
    with store.create(sealed.sidecar_key) as sink:
        sink.write(sealed.to_json())
    assert empty.restore(name, tmp_path / "got").returncode == 0
    assert (tmp_path / "got").read_bytes() == original.read_bytes()
    assert empty.archive(original).returncode == 0
    assert [path.name for path in empty.files(name)] == [key.rpartition("/")[2], f"{name}-{digest}.json"]


def test_sent_again_the_same_is_fine_and_another_is_refused(archive: ScriptArchive, tmp_path: Path) -> None:
    name = archive.names()[0]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in archive.files(name)}
    assert archive.archive(archive.original(name)).returncode == 0
    other = tmp_path / name
    other.write_bytes(archive.original(name).read_bytes())
    flip(other)
    refused = archive.archive(other)
    assert refused.returncode == 1
    assert f"ALERT: another content of {name}" in refused.stderr
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in archive.files(name)} == before


def test_whoever_else_archives_the_same_at_the_same_time(empty: ScriptArchive, archive: ScriptArchive) -> None:
    """A standby with archive_mode = always, say: calls may fail, but what is sealed is whole."""
    original = archive.original(archive.names()[1])
    with ThreadPoolExecutor(4) as pool:
        statuses = [done.returncode for done in pool.map(empty.archive, [original] * 12)]
    assert set(statuses) <= {0, 1}
    assert statuses.count(0) > 0
    assert check_sealed(empty, original.name)
    assert empty.archive(original).returncode == 0
    data, _ = empty.files(original.name)
    data.unlink()
    assert empty.archive(original).returncode == 1


def test_what_is_not_this_servers_whole_segment_is_not_archived(
    empty: ScriptArchive, archive: ScriptArchive, tmp_path: Path
) -> None:
    first, second = archive.names()[:2]
    data = archive.original(first).read_bytes()
    wrong = {
        first: data[: SEGMENT // 2],
        second: data,
        first.replace("00000001", "00000000", 1): data,
        "000000010000000000000077": b"",
        "000000010000000000000078": bytes(SEGMENT),
        "0000000100000000000000": data,
        f"{first}.tmp": data,
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        assert empty.archive(tmp_path / name).returncode == 1, name
    foreign = empty.archive(archive.original(first), "--system-identifier=1")
    assert foreign.returncode == 1
    assert "another server's" in foreign.stderr
    assert empty.archive(tmp_path / "absent").returncode == 1
    assert not [path for path in empty.repository.rglob("*") if path.is_file()]
    absent = replace(empty, repository=tmp_path / "absent")
    assert absent.archive(archive.original(first)).returncode == 1
    assert not absent.repository.exists()


def test_files_that_are_no_segments_keep_their_names(
    empty: ScriptArchive, archive: ScriptArchive, tmp_path: Path
) -> None:
    """Of a timeline that began in the middle of a segment, too: its first page is of the timeline before."""
    first = archive.names()[0]
    segment = archive.original(first).read_bytes()
    files = {
        f"{first}.partial": segment,
        f"{first}.00000028.backup": b"START WAL LOCATION: 0/2000028\n",
        "00000002.history": b"1\t0/3000000\tno recovery target specified\n",
        first.replace("00000001", "00000002", 1): segment,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert empty.archive(tmp_path / name, "--no-encrypt").returncode == 0
        assert empty.restore(name, tmp_path / "got").returncode == 0
        assert (tmp_path / "got").read_bytes() == content
        [data, sidecar] = empty.files(name)
        key = sidecar.relative_to(empty.repository).as_posix()
        sealed = parse_sealed(sidecar.read_bytes(), source=key)
        assert (sealed.timeline, sealed.encrypted) == (int(name[:8], 16), False)
        assert (sealed.start_lsn is None) == (len(content) < SEGMENT)
        assert data.name.endswith(".zst")
    listing = list_archive(LocalStore(empty.repository), CLUSTER, empty.system)
    assert [segment.timeline for segment in listing.segments] == [2]
    assert list(listing.histories) == [2]


def test_absent_is_said_only_where_it_is_known(copy: ScriptArchive, tmp_path: Path) -> None:
    target = tmp_path / "got"
    names = copy.names()
    following = Segment.parse(names[-1], SEGMENT).next().name
    for name in (following, "00000002.history", "000000020000000000000001", f"{following}.partial"):
        assert copy.restore(name, target).returncode == 1, name
    for path in copy.files(names[-2]):
        path.unlink()
    hole = copy.restore(names[-2], target)
    assert hole.returncode == 126
    assert names[-1] in hole.stderr

    failing = tmp_path / "failing"
    failing.mkdir()
    make_tools(failing)
    (failing / "ls").unlink()
    (failing / "ls").write_text("#!/bin/sh\nexit 2\n")
    (failing / "ls").chmod(0o755)
    keyless = make_key(tmp_path / "keys", "other")
    refused = {
        "no such cluster": copy.restore(following, target, "--cluster=other"),
        "no such server": copy.restore(following, target, "--system-identifier=1"),
        "not mounted": copy.restore(following, target, f"--backups={tmp_path}/absent"),
        "a listing that fails": copy.restore(following, target, tools=failing),
        "a listing of timelines that fails": copy.restore("00000002.history", target, tools=failing),
        "no tools": copy.restore(following, target, tools=tmp_path),
        "wrong key": copy.restore(names[0], target, f"--gpg-home={keyless.public.parent}"),
        "no place": copy.restore(names[0], tmp_path / "absent" / "got"),
        "no WAL file": copy.restore("x.history", target),
        "no option": copy.restore(following, target, "--frobnicate"),
    }
    assert {name: done.returncode for name, done in refused.items()} == dict.fromkeys(refused, 126)
    argv = copy.restorer(f"--system-identifier={copy.system}")
    assert subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode == 126
    assert not target.exists()
    subprocess.run(["gpgconf", f"--homedir={keyless.public.parent}", "--kill", "all"], check=True)


def test_nothing_but_the_named_content_is_restored(copy: ScriptArchive, archive: ScriptArchive, tmp_path: Path) -> None:
    first, second, third = copy.names()[:3]
    target = tmp_path / "got"
    data, sidecar = copy.files(first)
    whole = data.read_bytes()

    def refused(message: str, name: str = first) -> None:
        done = copy.restore(name, target)
        assert done.returncode == 126
        assert message in done.stderr
        assert not list(tmp_path.iterdir())

    flip(data)
    refused("cannot decrypt")
    data.write_bytes(whole[: len(whole) // 2])
    refused("cannot decrypt")
    data.write_bytes(b"")
    refused("cannot decrypt")
    data.write_bytes(copy.files(second)[0].read_bytes())
    refused("does not match the checksum in its name")

    # Renamed by somebody who knew the checksum: what the segment itself says decides.
    for path in copy.files(third):
        path.unlink()
    for path in copy.files(second):
        shutil.copy(path, path.with_name(path.name.replace(second, third)))
    refused("holds other WAL than its name says", third)
    stranger = copy.timelines.with_name("1")
    copy.timelines.rename(stranger)
    done = copy.restore(second, target, "--system-identifier=1")
    assert done.returncode == 126
    assert "another server's" in done.stderr
    stranger.rename(copy.timelines)

    data.write_bytes(whole)
    assert copy.restore(first, target).returncode == 0
    target.unlink()
    sidecar.with_name(f"{first}-{'0' * 64}.json").touch()
    refused("two different contents")


class Saboteur:
    """Stock tools that count their calls; the one with a given number sends the script a signal, and works or not."""

    def __init__(self, folder: Path, number: signal.Signals, *, works: bool) -> None:
        self.folder = folder
        folder.mkdir()
        make_tools(folder)
        for name in set(TOOLS.split()) - {"sh"}:
            real = (folder / name).readlink()
            (folder / name).unlink()
            (folder / name).write_text(f"""#!/bin/sh
                echo >>'{folder}/calls'
                count=0
                while read -r _; do count=$((count + 1)); done <'{folder}/calls'
                read -r step <'{folder}/step'
                read -r script <'{folder}/pid'
                # not "=": two that start together may both count the other one
                if [ "$step" -gt 0 ] && [ "$count" -ge "$step" ] && (set -C && : >'{folder}/done') 2>/dev/null; then
                    kill -{number.value} "$script"
                    {":" if works else "exit 1"}
                fi
                exec {real} "$@"
            """)
            (folder / name).chmod(0o755)

    def run(self, argv: list[str], step: int) -> int:
        """Run a script, with the signal at a step; return its status as subprocess tells it."""
        (self.folder / "step").write_text(f"{step}\n")
        (self.folder / "calls").write_text("")
        (self.folder / "done").unlink(missing_ok=True)
        wrapped = ["sh", "-c", 'echo $$ >"$0/pid"; exec "$@"', str(self.folder), *argv]
        environment = {"PATH": str(self.folder)}
        return subprocess.run(wrapped, check=False, env=environment, stderr=subprocess.DEVNULL, timeout=60).returncode

    @property
    def calls(self) -> int:
        return len((self.folder / "calls").read_text().splitlines())


def check_sealed(archive: ScriptArchive, name: str) -> bool:
    """Whatever has a description is whole; tell whether it has one."""
    files = archive.files(name)
    if not any(path.name.endswith(".json") for path in files):
        return False
    data, sidecar = files
    sealed = parse_sealed(sidecar.read_bytes(), source=sidecar.relative_to(archive.repository).as_posix())
    content = data.read_bytes()
    assert (len(content), sha256(content).hexdigest()) == (sealed.stored_bytes, sealed.stored_sha256)
    return True


@pytest.mark.parametrize("works", [True, False])
def test_killed_at_any_step_the_next_call_finishes(
    empty: ScriptArchive, archive: ScriptArchive, tmp_path: Path, works: bool
) -> None:
    original = archive.original(min(archive.names(), key=lambda name: archive.files(name)[0].stat().st_size))
    saboteur = Saboteur(tmp_path / "tools", signal.SIGKILL, works=works)
    argv = [*empty.archiver(f"--system-identifier={empty.system}"), str(original)]
    assert saboteur.run(argv, 0) == 0
    steps = saboteur.calls
    assert steps > 10
    unsealed = 0
    for step in range(1, steps + 1):
        shutil.rmtree(empty.repository / "wal")
        status = saboteur.run(argv, step)
        assert status in {0, -signal.SIGKILL}
        unsealed += not check_sealed(empty, original.name)
        assert empty.archive(original).returncode == 0
        assert check_sealed(empty, original.name)
        assert [path.name for path in empty.timelines.iterdir()] == ["00000001"]
        assert empty.restore(original.name, tmp_path / "got").returncode == 0
        assert (tmp_path / "got").read_bytes() == original.read_bytes()
    assert unsealed > 5


def test_told_to_end_archiving_fails_as_the_server_understands(
    empty: ScriptArchive, archive: ScriptArchive, tmp_path: Path
) -> None:
    original = archive.original(archive.names()[0])
    saboteur = Saboteur(tmp_path / "tools", signal.SIGTERM, works=True)
    argv = [*empty.archiver(f"--system-identifier={empty.system}"), str(original)]
    statuses = {saboteur.run(argv, step) for step in range(1, 9)}
    assert statuses == {1}
    assert not [path for path in empty.repository.rglob("*") if path.is_file()]
    (tmp_path / "tools" / "gpg").write_text("#!/bin/sh\nkill -9 $$\n")
    assert saboteur.run(argv, 0) == 1


def test_told_to_end_restoring_says_so(archive: ScriptArchive, tmp_path: Path) -> None:
    saboteur = Saboteur(tmp_path / "tools", signal.SIGTERM, works=True)
    target = tmp_path / "got"
    argv = [*archive.restorer(f"--system-identifier={archive.system}"), archive.names()[0], str(target)]
    for step in range(1, 6):
        assert saboteur.run(argv, step) == 128 + signal.SIGTERM
        assert [path.name for path in tmp_path.iterdir()] == ["tools"]
    assert saboteur.run(argv, 0) == 0
    (tmp_path / "tools" / "zstd").write_text("#!/bin/sh\nkill -9 $$\n")
    assert saboteur.run(argv, 0) == 126


@pytest.fixture
def told(archive: ScriptArchive, tmp_path: Path) -> Iterator[Source]:
    """A server with the fragments of include/postgres, every alternative in them switched on."""
    source = Source()
    try:
        source.make_roles()
        source.stop()
        text = (FRAGMENTS / "postgresql.conf").read_text()
        text = re.sub(r"^#(?=[a-z_]+ = )(?!synchronous)", "", text, flags=re.MULTILINE)
        repository = source.folder / "repository"
        repository.mkdir()
        key = str(shutil.copy(archive.key.public, source.folder / "operations.asc"))
        for stock, ours in (
            ("/scripts/", f"{ROOT}/include/scripts/"),
            ("/backups", str(repository)),
            ("/etc/pgbackup/keys/operations.asc", key),
        ):
            assert stock in text
            text = text.replace(stock, ours)
        (source.data / "pgbackup.conf").write_text(text)
        hba = (FRAGMENTS / "pg_hba.conf").read_text().replace("192.0.2.10/32", "127.0.0.1/32")
        (source.data / "pg_hba.conf").write_text(hba + (source.data / "pg_hba.conf").read_text())
        (source.data / "postgresql.auto.conf").write_text("")  # it would win
        mine = {"port": str(source.port), "listen_addresses": "127.0.0.1", "fsync": "off", "ssl": "on"}
        lines = [f"{name} = '{value}'\n" for name, value in mine.items()]
        (source.data / "postgresql.conf").write_text("".join(lines) + "include = 'pgbackup.conf'\n")
        certificate = ["-subj", "/CN=127.0.0.1", "-out", "server.crt", "-keyout", "server.key", "-days", "2"]
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*new, *certificate], cwd=source.data, check=True, capture_output=True)
        give(source, source.folder)
        source.start()
        yield source
    finally:
        source.remove()


def test_a_server_with_the_fragments_keeps_their_promises(told: Source, archive: ScriptArchive, tmp_path: Path) -> None:
    text = (told.data / "pgbackup.conf").read_text()
    promised = set(re.findall(r"^([a-z_]+) = ", text, flags=re.MULTILINE))
    assert len(promised) == 11
    with told.connect("postgres") as connection:
        applied = connection.execute(
            "SELECT name FROM pg_file_settings WHERE applied AND error IS NULL AND sourcefile LIKE '%pgbackup.conf'"
        )
        assert {row[0] for row in applied} == promised

    def reach(mode: str) -> str:
        return f"host=127.0.0.1 port={told.port} user=backup dbname=postgres sslmode={mode}"

    def back_up(name: str, mode: str, *options: str) -> subprocess.CompletedProcess[str]:
        argv = [str(told.bin / "pg_basebackup"), "-d", reach(mode), "-D", str(tmp_path / name), "--no-sync"]
        environment = {"PGPASSWORD": told.password}
        return subprocess.run([*argv, *options], check=False, env=environment, capture_output=True, text=True)

    with psycopg.connect(reach("require"), password=told.password) as connection:
        assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        psycopg.connect(reach("disable"), password=told.password)
    assert "pg_hba.conf rejects replication connection" in back_up("plain", "disable").stderr
    assert back_up("full", "require", "--checkpoint=fast").returncode == 0
    manifest = tmp_path / "full" / "backup_manifest"
    told.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    incremental = back_up("incremental", "require", "--checkpoint=fast", f"--incremental={manifest}")
    assert incremental.returncode == 0, incremental.stderr
    archived(told)
    stored = [path.name for path in (told.folder / "repository").rglob("*.json")]
    assert len([name for name in stored if ".backup-" in name]) == 2

"""What goes wrong around a backup: each fault has its error, with a next step; nothing is lost or half-published."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.doomed import Call
from tests.support.keys import KeyPair, make_key
from tests.support.site import make_settings, make_site
from tests.support.source import ROOT, Source

from pgbackup.capture import capture_full, preflight
from pgbackup.domain.errors import BusyError, PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.model import Command, ConnectionParameters, State, Verdict
from pgbackup.domain.ports import Sink, Site
from pgbackup.domain.settings import Settings
from pgbackup.store import LocalStore
from pgbackup.stream import Processes
from pgbackup.verify import open_attempt, verify

CLUSTER = {"exclude_databases": ["postgres"]}


@pytest.fixture
def site(tmp_path: Path, library: Source, catalog_dsn: str) -> Site:
    return make_site(tmp_path, library, catalog_dsn, None, **CLUSTER)


def fails(site: Site, kind: type[PgBackupError]) -> PgBackupError:
    """Capture; check that it fails in this way, that its state says so, and that nothing is published."""
    with pytest.raises(PgBackupError) as caught:
        capture_full(site, "streamflix")
    assert isinstance(caught.value, kind), caught.value
    assert [backup.state for backup in site.catalog.backups()] == [State.FAILED]
    assert site.catalog.backups()[0].error == str(caught.value)
    full = site.settings.paths.backups / "full"
    assert not full.exists() or list(full.iterdir()) == []
    return caught.value


def reached_by(site: Site, parameters: ConnectionParameters) -> Site:
    return dataclasses.replace(site, connections=lambda _cluster: parameters)


# ------------------------------------------------------------------------------------------------------ the server


def test_a_wrong_password(site: Site, library: Source) -> None:
    error = fails(reached_by(site, library.parameters(tcp=True, password="not it")), UnfitError)
    assert "refuses the connection to backup@127.0.0.1" in error.message
    assert "password" in str(error.hint)
    assert "not it" not in str(error)


def test_a_right_password_over_the_network(site: Site, library: Source) -> None:
    """It reaches every program through a file that is gone afterwards."""
    manifest = capture_full(reached_by(site, library.parameters(tcp=True)), "streamflix")
    assert verify(site, manifest.id, "local").verdict is Verdict.VERIFIED
    stored = site.settings.paths.backups
    assert not [path for path in stored.rglob("*") if path.is_file() and library.password.encode() in path.read_bytes()]


def test_an_unknown_role(site: Site, library: Source) -> None:
    error = fails(reached_by(site, library.parameters("stranger")), UnfitError)
    assert 'role "stranger" does not exist' in str(error.detail)


def test_a_role_without_rights(site: Site, library: Source) -> None:
    error = fails(reached_by(site, library.parameters("readonly")), PgBackupError)
    assert "permission denied" in str(error)
    assert isinstance(error, UnfitError)


def test_an_unknown_database(site: Site, library: Source) -> None:
    error = fails(reached_by(site, library.parameters().replace(dbname="gone")), UnfitError)
    assert 'database "gone" does not exist' in str(error.detail)


def test_a_server_that_is_down(site: Site, library: Source, tmp_path: Path) -> None:
    error = fails(reached_by(site, library.parameters().replace(host=str(tmp_path))), UnavailableError)
    assert error.message.startswith("cannot connect to backup@")
    assert error.hint


def test_a_server_that_does_not_speak(site: Site, library: Source) -> None:
    """Something listens and never answers: the connection's own time limit ends it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        parameters = library.parameters().replace(
            host="127.0.0.1", port=str(silent.getsockname()[1]), connect_timeout="2"
        )
        fails(reached_by(site, parameters), UnavailableError)


def test_a_table_that_stays_locked(site: Site, library: Source) -> None:
    cluster = {**CLUSTER, "full_backup": {"lock_timeout": "0.1s"}}
    impatient = dataclasses.replace(site, settings=with_cluster(site, library, cluster))
    with library.connect("library") as connection, connection.transaction():
        connection.execute("LOCK TABLE book IN ACCESS EXCLUSIVE MODE")
        error = fails(impatient, BusyError)
    assert "stayed locked" in error.message
    assert capture_full(impatient, "streamflix").databases


def with_cluster(site: Site, library: Source, cluster: dict[str, Any]) -> Settings:
    return make_settings(site.settings.paths.backups.parent, library, None, **cluster)


class Stalling:
    """A repository whose dump object stops taking data until it is told to go on."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    @contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        with self._store.create(key) as sink:
            if key.endswith(".dump"):
                self.reached.set()
                assert self.go_on.wait(60)
            yield sink


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL], ids=["crash", "kill -9"])
def test_a_server_that_dies_during_the_dump(
    tmp_path: Path, catalog_dsn: str, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    try:
        source.make_roles()
        source.execute("CREATE TABLE big AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 20000) AS i")
        stalling = Stalling(LocalStore(tmp_path / "backups"))
        site = dataclasses.replace(make_site(tmp_path, source, catalog_dsn), repositories={"local": stalling})
        helper = threading.Thread(target=lambda: (stalling.reached.wait(60), source.stop(how), stalling.go_on.set()))
        helper.start()
        error = fails(site, UnavailableError)
        helper.join()
        assert error.message
    finally:
        source.remove()


# ---------------------------------------------------------------------------------------------------- the programs


def scripted(folder: Path, source: Source, **scripts: str) -> Path:
    """A folder of programs, some of them replaced by shell scripts; ``$real`` is the true one."""
    folder.mkdir()
    for program in source.bin.iterdir():
        if program.name in scripts:
            path = folder / program.name
            path.write_text(f"#!/bin/sh\nreal={program}\n{scripts[program.name]}\n")
            path.chmod(0o755)
        else:
            (folder / program.name).symlink_to(program)
    return folder


def with_programs(site: Site, folder: Path) -> Site:
    paths = site.settings.paths.model_copy(update={"postgres_bin": folder})
    return dataclasses.replace(site, settings=site.settings.model_copy(update={"paths": paths}))


def test_programs_older_than_the_server(site: Site, library: Source, tmp_path: Path) -> None:
    folder = scripted(tmp_path / "old", library, pg_dump="echo 'pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)'")
    error = fails(with_programs(site, folder), UnfitError)
    assert error.message == "pg_dump 17.2 is older than the server (18.6)"
    assert "postgresql-client-18" in str(error.hint)
    findings = {finding.name: finding for finding in preflight(with_programs(site, folder), "streamflix")}
    assert not findings["client programs fit the server"].ok


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'cannot open shared object file: libpq.so.5' >&2; exit 127", "pg_dump does not run"),
        ("echo 'something else'", "cannot tell the version of pg_dump"),
    ],
)
def test_programs_that_do_not_run(site: Site, library: Source, tmp_path: Path, script: str, message: str) -> None:
    error = fails(with_programs(site, scripted(tmp_path / "broken", library, pg_dump=script)), UnfitError)
    assert error.message == message


def test_no_programs_at_all(site: Site, tmp_path: Path) -> None:
    error = fails(with_programs(site, tmp_path / "nowhere"), UnfitError)
    assert "paths.postgres_bin" in str(error.hint)


@pytest.mark.parametrize("ending", ["exit 1", "kill -KILL $$", "kill -TERM $$"])
@pytest.mark.parametrize("program", ["pg_dump", "pg_dumpall"])
def test_a_dump_program_that_fails(site: Site, library: Source, tmp_path: Path, program: str, ending: str) -> None:
    script = f'case "$*" in *--version*) exec $real "$@";; esac; echo "half a dump"; {ending}'
    error = fails(with_programs(site, scripted(tmp_path / "failing", library, **{program: script})), UnavailableError)
    assert error.message.startswith(program)


@pytest.mark.parametrize(
    ("program", "ending"),
    [
        ("pg_restore", "kill -KILL $$"),
        ("pg_restore", "kill -TERM $$"),
        ("initdb", "kill -KILL $$"),
        ("pg_amcheck", "kill -KILL $$"),
        ("postgres", "kill -KILL $$"),
    ],
)
def test_a_program_that_somebody_ends_is_no_verdict(
    site: Site, library: Source, tmp_path: Path, program: str, ending: str
) -> None:
    """The machine ran out of memory, the task was stopped: neither says anything about the backup."""
    manifest = capture_full(site, "streamflix")
    script = f'case "$*" in *--version*) exec $real "$@";; esac; {ending}'
    with pytest.raises(PgBackupError) as caught:
        verify(with_programs(site, scripted(tmp_path / "ended", library, **{program: script})), manifest.id, "local")
    assert not isinstance(caught.value, RefusedError)
    backup = site.catalog.backup(manifest.id)
    assert backup is not None
    assert backup.state is State.CAPTURED


# --------------------------------------------------------------------------------------------------------- the keys


def test_an_expired_recipient_stops_a_backup_before_it_starts(
    library: Source, catalog_dsn: str, tmp_path: Path
) -> None:
    expired = make_key(tmp_path / "keys", "old", expires="1d", faked_time="20200101T000000")
    error = fails(make_site(tmp_path, library, catalog_dsn, expired, **CLUSTER), UnfitError)
    assert "expired on 2020-01-02" in error.message


@pytest.mark.parametrize("trouble", ["another key", "no key", "wrong passphrase", "garbage"])
def test_without_the_right_key_there_is_no_verdict(
    library: Source, catalog_dsn: str, tmp_path: Path, key: KeyPair, trouble: str
) -> None:
    site = make_site(tmp_path, library, catalog_dsn, key, **CLUSTER)
    manifest = capture_full(site, "streamflix")
    other = make_key(tmp_path / "keys", "other")
    match trouble:
        case "another key":
            wrong = dataclasses.replace(other, public=key.public)
        case "no key":
            wrong = dataclasses.replace(key, private=tmp_path / "gone")
        case "wrong passphrase":
            wrong = dataclasses.replace(key, passphrase_file=other.passphrase_file)
        case _:
            wrong = dataclasses.replace(key, private=other.passphrase_file)
    with pytest.raises(UnfitError) as caught:
        verify(make_site(tmp_path, library, catalog_dsn, wrong, **CLUSTER), manifest.id, "local")
    assert caught.value.hint
    backup = site.catalog.backup(manifest.id)
    assert backup is not None
    assert backup.state is State.CAPTURED
    assert verify(site, manifest.id, "local").verdict is Verdict.VERIFIED


# --------------------------------------------------------------------------------------------------------- the disk

FULL_DISK = """
import sys
from pathlib import Path
import json
from pgbackup.capture import capture_full
from pgbackup.domain.errors import UnavailableError
from tests.support.doomed import Address, Call
from tests.support.site import make_site
call = Call(**json.loads(sys.argv[1]))
address = Address(Path(call.bin), Path(call.socket), call.port)
site = make_site(Path(call.folder), address, call.catalog_dsn, None, **call.cluster)
try:
    capture_full(site, "streamflix")
except UnavailableError as error:
    print(error)
print([path.name for path in Path(call.folder, "backups").rglob("*") if path.is_file()])
"""
# A private mount where that is allowed, else a limit on file size: either way the disk ends in the middle of the dump.
TMPFS = 'mount -t tmpfs -o size=100k tmpfs "$0" && exec "$@"'
LIMIT = 'trap "" XFSZ; ulimit -f 200; shift 0; exec "$@"'


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_disk_that_fills_up_during_the_dump(library: Source, catalog_dsn: str, tmp_path: Path, jobs: int) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    cluster = {**CLUSTER, "full_backup": {"jobs": jobs}}
    call = Call("capture", str(folder), str(library.bin), str(library.folder), library.port, catalog_dsn, None, cluster)
    inner = [sys.executable, "-c", FULL_DISK, json.dumps(dataclasses.asdict(call))]
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mountable = subprocess.run([*private, TMPFS, str(folder), "true"], capture_output=True, check=False).returncode == 0
    argv = [*private, TMPFS, str(folder), *inner] if mountable else ["sh", "-c", LIMIT, "sh", *inner]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, check=False)
    text = done.stdout.decode()
    assert "space" in text, done.stderr.decode()
    assert text.endswith("[]\n")
    site = make_site(tmp_path, library, catalog_dsn, None, **CLUSTER)
    assert [backup.state for backup in site.catalog.backups()] == [State.FAILED]


# ------------------------------------------------------------------------------------------- two at the same time


def test_two_verifications_of_one_owner_do_not_disturb_each_other(site: Site) -> None:
    """The second is told to wait: it neither takes the first one's files away nor judges by their absence."""
    manifest = capture_full(site, "streamflix")
    reached, go_on = threading.Event(), threading.Event()

    class Waiting(Processes):
        def run(self, command: Command, *, feed: bytes = b"", ok: frozenset[int] = frozenset({0})) -> tuple[bytes, str]:
            if "initdb" in " ".join(command.argv):
                reached.set()
                assert go_on.wait(60)
            return super().run(command, feed=feed, ok=ok)

    verdicts: list[Verdict | None] = []
    first = threading.Thread(
        target=lambda: verdicts.append(
            verify(dataclasses.replace(site, runner=Waiting()), manifest.id, "local").verdict
        )
    )
    first.start()
    assert reached.wait(60)
    with pytest.raises(BusyError, match="being verified by another process"):
        verify(site, manifest.id, "local")
    go_on.set()
    first.join()
    assert verdicts == [Verdict.VERIFIED]


def test_what_another_attempt_left_on_another_backup_is_removed_once_it_was_judged(site: Site) -> None:
    first, second = capture_full(site, "streamflix"), capture_full(site, "streamflix")
    judged = open_attempt(site, first.id, "local")
    site.catalog.conclude(
        first.id, repository="local", attempt=judged.number, verdict=Verdict.VERIFIED, reason="", now=site.clock()
    )
    waiting = open_attempt(dataclasses.replace(site, owner="a run between two tasks"), first.id, "local")
    for attempt in (judged, waiting):
        attempt.files.mkdir(parents=True)
    open_attempt(site, second.id, "local")
    assert (judged.folder.exists(), waiting.folder.exists()) == (False, True)


def test_what_is_in_the_repository_and_is_no_backup_is_left_alone(site: Site) -> None:
    """Somebody's notes beside the backups are not a killed run's leftovers."""
    notes = site.settings.paths.backups / "full" / "streamflix_notes" / "readme.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("keep")
    other = site.settings.paths.backups / "full" / "streamflix_x_20260101_000000_full" / "library.dump"
    other.parent.mkdir(parents=True)
    other.write_text("another cluster is at work here")
    capture_full(site, "streamflix")
    assert notes.read_text() == "keep"
    assert other.exists()
    shutil.rmtree(other.parent)

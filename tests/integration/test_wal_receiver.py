"""WAL on its way into the archive: what is sealed, what its sidecar says, what is refused, what the status tells."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from tests.support.archiving import archiving
from tests.support.keys import KeyPair
from tests.support.receiver import (
    MEGABYTE,
    Receiver,
    check_archive,
    eventually,
    fill,
    is_sealed_to_now,
    listing,
    receiving,
    small_segments,
    told,
)
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.domain.errors import BusyError, RefusedError
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Sealed, Segment, read_header
from pgbackup.postgres import replication
from pgbackup.postgres.programs import Programs
from pgbackup.restore.archive import fetch_wal, list_archive, read_sidecar
from pgbackup.restore.received import receiver_is_alive
from pgbackup.store import LocalStore
from pgbackup.wal import create_slot, receive, seal_file, wal_status
from pgbackup.wal.seal import publish, store_file

CLUSTER = "streamflix"


@pytest.fixture(scope="module")
def small() -> Iterator[Source]:
    own = small_segments()
    yield own
    own.remove()


@pytest.fixture
def source(small: Source) -> Iterator[Source]:
    yield small
    with small.connect("postgres") as connection, contextlib.suppress(psycopg.errors.UndefinedObject):
        connection.execute("SELECT pg_drop_replication_slot('pgbackup')")


@pytest.fixture
def site(source: Source, tmp_path: Path, key: KeyPair) -> Site:
    return make_site(tmp_path, source, "", key)


@dataclasses.dataclass(frozen=True)
class Files:
    """Finished segments of a server, copied out of its data directory, and their system."""

    paths: list[Path]
    system: str
    programs: Programs

    def seal(self, site: Site, path: Path | None = None) -> Sealed:
        return seal_file(site, CLUSTER, path or self.paths[0], system_identifier=self.system, programs=self.programs)


@pytest.fixture(scope="module")
def originals(small: Source, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("originals")
    fill(small, 3)
    with small.connect("postgres") as connection:
        now = replication.position(connection)
    newest = Segment.holding(now.flush.minus(1), now.timeline, now.segment_size)
    numbers = [newest.number - 3, newest.number - 2, newest.number - 1]
    names = [Segment(newest.timeline, number, newest.size).name for number in numbers]
    paths = [Path(shutil.copy(small.data / "pg_wal" / name, folder / name)) for name in names]
    return Files(paths, now.system_identifier, Programs(small.bin))


@pytest.fixture
def files(originals: Files, tmp_path: Path) -> Files:
    """Copies that a test may change."""
    folder = tmp_path / "files"
    folder.mkdir()
    return dataclasses.replace(originals, paths=[Path(shutil.copy(path, folder)) for path in originals.paths])


def stored(site: Site) -> dict[str, bytes]:
    return {info.key: site.local.read(info.key) for info in site.local.list("wal/")}


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# ------------------------------------------------------------------------------------------------------ what is sealed


def test_sidecars_tell_every_commit_and_restore_point(site: Site, source: Source, tmp_path: Path) -> None:
    """Counted against pg_waldump's reading of the whole range at once, where no record is cut by a segment's end."""
    before = datetime.now(UTC)
    with archiving(site, source):
        with source.connect("app") as connection:
            start = replication.position(connection).insert
            for number in range(30):
                connection.execute("INSERT INTO row (content) VALUES (%s)", (bytes(40000),))
                connection.execute("INSERT INTO row (content) SELECT NULL FROM generate_series(1, 800)")
                connection.execute("BEGIN; SAVEPOINT s; INSERT INTO row DEFAULT VALUES; PREPARE TRANSACTION 'p'")
                connection.execute("COMMIT PREPARED 'p'")
                connection.execute("SELECT pg_create_restore_point(%s)", (f"point {number}\nof the ünit",))
            straddle(connection)
        eventually(is_sealed_to_now(site, source))
    found = check_archive(site, source, tmp_path / "fetched")
    sidecars = [read_sidecar(site.local, archived) for archived in found.segments.values()]
    [part] = found.stretches
    argv = [str(source.bin / "pg_waldump"), "-p", str(tmp_path / "fetched"), "-t", str(part.timeline)]
    argv += ["-s", str(part.start), "-e", str(part.end), "--rmgr=Transaction"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert sum(sidecar.commits or 0 for sidecar in sidecars) == said.count("desc: COMMIT")
    points = [point for sidecar in sidecars for point in sidecar.restore_points or ()]
    names = [f"point {number}\nof the ünit" for number in range(30)]
    assert [point.name for point in sorted(points, key=lambda point: point.moment)] == [*names, "across"]
    for sidecar in sidecars:
        for point in sidecar.restore_points or ():
            assert before - timedelta(seconds=1) <= point.moment <= datetime.now(UTC)
        if sidecar.end_lsn and sidecar.start_lsn and sidecar.start_lsn > str(start) and sidecar.commits:
            assert sidecar.first_commit
            assert sidecar.last_commit
            assert sidecar.first_commit <= sidecar.last_commit <= sidecar.sealed_at


def straddle(connection: psycopg.Connection[tuple]) -> None:
    """Create the restore point "across" so that its record begins in one segment and ends in the next."""

    def left() -> int:
        row = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
        assert row is not None
        return MEGABYTE - row[0] % MEGABYTE

    for _ in range(1000):
        while (room := left()) > 9000:
            connection.execute(
                "SELECT pg_logical_emit_message(false, 'p', repeat('x', %s))", (min(room - 8500, 60000),)
            )
        if room > 300:
            connection.execute("SELECT pg_logical_emit_message(false, 'p', repeat('x', %s))", (room - 200,))
        if 24 < left() < 100:  # the heartbeat writes too: sometimes it takes another round
            connection.execute("SELECT pg_create_restore_point('across')")
            return
        connection.execute("SELECT pg_logical_emit_message(false, 'p', 'x')")
    pytest.fail("no record could be laid across the end of a segment")


def test_the_same_again_changes_nothing_and_another_content_is_refused(site: Site, files: Files) -> None:
    first = files.seal(site)
    before = stored(site)
    assert files.seal(site) == first
    assert stored(site) == before

    flip(files.paths[0], 5000)
    with pytest.raises(RefusedError, match="another content is archived"):
        files.seal(site)
    assert stored(site) == before


def test_bytes_that_a_kill_left_without_a_sidecar_are_described_as_they_are(
    site: Site, files: Files, tmp_path: Path
) -> None:
    sealed = files.seal(site)
    left = site.local.read(sealed.data_key)
    site.local.delete(sealed.sidecar_key)
    files.seal(site)
    assert site.local.read(sealed.data_key) == left
    check_sealed(site, files, tmp_path / "fetched")


def test_two_sealers_at_once_describe_the_bytes_that_stay(site: Site, files: Files, tmp_path: Path) -> None:
    """Each looks before the other has stored anything, and tells only after both have: as in two processes."""
    looked, stored_both = threading.Barrier(2), threading.Barrier(2)
    blind = dataclasses.replace(site, repositories={"local": Meeting(site.settings.paths.backups, looked)})

    def seal() -> Sealed:
        sealed = store_file(blind, CLUSTER, files.paths[0], system_identifier=files.system, programs=files.programs)
        stored_both.wait(60)
        publish(blind, sealed)
        return sealed

    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result() for future in [pool.submit(seal), pool.submit(seal)])
    assert one.stored_sha256 == other.stored_sha256
    assert len(stored(site)) == 2
    check_sealed(site, files, tmp_path / "fetched")


class Meeting(LocalStore):
    """Whoever lists it goes on when so many others have as well."""

    def __init__(self, root: Path, together: threading.Barrier) -> None:
        super().__init__(root)
        self._together = together

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = [*super().list(prefix)]
        self._together.wait(60)
        return iter(found)


def check_sealed(site: Site, files: Files, folder: Path) -> None:
    """The first file is sealed: its sidecar fits the stored bytes, and these hold what it held."""
    found = list_archive(site.local, CLUSTER, files.system)
    [archived] = found.segments.values()
    sidecar = read_sidecar(site.local, archived)
    data = site.local.read(sidecar.data_key)
    assert (sidecar.stored_bytes, sidecar.stored_sha256) == (len(data), sha256(data).hexdigest())
    with site.keyring.opened() as unlock:
        fetch_wal(site, site.local, [archived], folder, unlock, jobs=1)
    assert (folder / archived.name).read_bytes() == files.paths[0].read_bytes()


@pytest.mark.parametrize("trouble", ["cut", "empty", "no header", "system", "number", "timeline", "partial", "damaged"])
def test_what_is_not_what_its_name_says_is_refused(site: Site, files: Files, trouble: str) -> None:
    path = files.paths[0]
    match trouble:
        case "cut":
            path.write_bytes(path.read_bytes()[: MEGABYTE - 8192])
        case "empty":
            path.write_bytes(b"")
        case "no header":
            path.write_bytes(bytes(MEGABYTE))
        case "system":
            files = dataclasses.replace(files, system="7000000000000000000")
        case "number":
            files.paths[1].replace(path)
        case "timeline":
            path = path.rename(path.with_name(f"00000009{path.name[8:]}"))
        case "partial":
            path = path.rename(path.with_name(f"{path.name}.partial"))
        case "damaged":
            flip(path, MEGABYTE // 2)
    with pytest.raises(RefusedError):
        files.seal(site, path)
    assert stored(site) == {}


def test_the_first_segment_of_a_timeline_may_begin_on_the_one_before(site: Site, files: Files) -> None:
    path = files.paths[0]
    header = read_header(path.read_bytes()[:64])
    middle = header.start.plus(MEGABYTE // 2)
    path = path.rename(path.with_name(f"00000002{path.name[8:]}"))
    history = path.with_name("00000002.history")
    history.write_text(f"1\t{header.start.minus(1)}\tno recovery target specified\n")
    with pytest.raises(RefusedError, match="was written on timeline 1"):
        files.seal(site, path)
    history.write_text(f"1\t{middle}\tno recovery target specified\n")
    assert files.seal(site, path).timeline == 2
    assert files.seal(site, history).timeline == 2
    found = list_archive(site.local, CLUSTER, files.system)
    assert list(found.histories) == [2]

    history.write_text("nothing that anybody could read\n")
    with pytest.raises(RefusedError, match="tells no history"):
        files.seal(site, history)


@pytest.mark.parametrize("trouble", ["flipped", "cut", "swapped"])
def test_a_damaged_segment_of_the_archive_is_not_fetched(
    site: Site, files: Files, tmp_path: Path, trouble: str
) -> None:
    first, second = files.seal(site), files.seal(site, files.paths[1])
    path = site.settings.paths.backups / first.data_key
    match trouble:
        case "flipped":
            flip(path, path.stat().st_size // 2)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1000])
        case _:
            path.write_bytes((site.settings.paths.backups / second.data_key).read_bytes())
    found = list_archive(site.local, CLUSTER, files.system)
    with (
        site.keyring.opened() as unlock,
        pytest.raises(RefusedError, match=f"{first.name} in the WAL archive is damaged"),
    ):
        fetch_wal(site, site.local, list(found.segments.values()), tmp_path / "fetched", unlock, jobs=1)
    assert not (tmp_path / "fetched" / first.name).exists()


# ---------------------------------------------------------------------------------------------- the receiver, its slot


def test_a_slot_is_made_once(site: Site, source: Source) -> None:
    create_slot(site, CLUSTER)
    with source.connect("postgres") as connection:
        slot = replication.slot(connection, "pgbackup")
    assert slot is not None
    assert slot.safe
    assert slot.restart_lsn is not None
    with pytest.raises(RefusedError, match="exists already"):
        create_slot(site, CLUSTER)


def test_one_receiver_a_cluster(site: Site, source: Source) -> None:
    with archiving(site, source):
        eventually(lambda: receiver_is_alive(site.settings, CLUSTER))
        with pytest.raises(BusyError, match="another receiver is at work"):
            receive(site, CLUSTER, stop=lambda: False)
        eventually(is_sealed_to_now(site, source))
    assert not receiver_is_alive(site.settings, CLUSTER)


def test_a_slot_may_come_late_where_nobody_may_write(site: Site, source: Source, tmp_path: Path, key: KeyPair) -> None:
    """As during a switch: nothing is missed, so the receiver waits for it; anywhere else it ends, and is heard."""
    receiver = Receiver(tmp_path, source, key)
    assert receiver.run("receive").returncode == 3
    source.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    source.execute("SELECT pg_reload_conf()")
    try:
        with receiving(receiver):
            eventually(lambda: "no replication slot pgbackup yet" in (told(site).error or ""))
            source.execute("SELECT pg_create_physical_replication_slot('pgbackup', true)")
            eventually(lambda: told(site).receiving)
    finally:
        source.execute("ALTER SYSTEM RESET default_transaction_read_only")
        source.execute("SELECT pg_reload_conf()")


def test_a_segment_that_is_refused_is_reported_and_ends_nothing(site: Site, source: Source, files: Files) -> None:
    """Another content under the name of a segment that comes: both are kept, the alert stays until somebody acts."""
    with archiving(site, source):
        eventually(lambda: told(site).receiving)
        with source.connect("postgres") as connection:
            now = replication.position(connection)
        coming = Segment.holding(now.flush, now.timeline, now.segment_size)
        forged = forge(site, files, coming)
        fill(source, 2)
        eventually(lambda: coming.name in told(site).unsealed)
        eventually(is_sealed_to_now(site, source))
        assert "another content is archived" in told(site).unsealed[coming.name]
        problems = wal_status(site, CLUSTER).problems
        assert any(coming.name in problem for problem in problems)
    assert site.local.read(forged.data_key) == b"forged"
    received = site.settings.paths.received_folder / CLUSTER / now.system_identifier
    assert (received / coming.name).stat().st_size == MEGABYTE


def forge(site: Site, files: Files, segment: Segment) -> Sealed:
    """Put another content into the archive under a segment's name."""
    sealed = files.seal(site)
    for key in (sealed.sidecar_key, sealed.data_key):
        site.local.delete(key)
    lie = sealed.model_copy(
        update={
            "name": segment.name,
            "start_lsn": str(segment.start),
            "end_lsn": str(segment.end),
            "plain_sha256": "0" * 64,
        }
    )
    for lie_key, content in ((lie.data_key, b"forged"), (lie.sidecar_key, lie.to_json())):
        with site.local.create(lie_key) as sink:
            sink.write(content)
    return lie


def test_heartbeats_are_written_and_old_ones_removed(site: Site, source: Source) -> None:
    source.execute("INSERT INTO pgbackup.heartbeat (moment) VALUES (now() - interval '15 days')", "app")

    def beats(condition: str) -> int:
        with source.connect("app") as connection:
            row = connection.execute(f"SELECT count(*) FROM pgbackup.heartbeat WHERE {condition}").fetchone()
        assert row is not None
        return int(row[0])

    young = beats("moment > now() - interval '1 day'")
    with archiving(site, source):
        eventually(lambda: beats("moment > now() - interval '1 day'") > young + 1)
    assert beats("moment < now() - interval '14 days'") == 0
    assert told(site).heartbeat_at is not None


# ------------------------------------------------------------------------------------------------------- what it tells


def test_the_status_answers_by_its_exit_code(site: Site, source: Source, tmp_path: Path, key: KeyPair) -> None:
    receiver = Receiver(tmp_path, source, key)
    assert receiver.run("receive").returncode == 3
    made = receiver.run("create-slot")
    assert made.returncode == 0, made.stderr
    assert receiver.run("create-slot").returncode == 1

    with receiving(receiver):
        eventually(lambda: told(site).receiving)
        eventually(is_sealed_to_now(site, source))
        document = receiver.run("status", "--json")
        assert document.returncode == 0, document.stdout
        said = json.loads(document.stdout)
        assert said["alive"]
        assert said["problems"] == []
        assert said["slot"]["wal_status"] == "reserved"
        assert said["archive_behind_bytes"] is not None
        assert [one["gaps"] for one in said["archives"]] == [[]]
        assert receiver.run("receive").returncode == 75
        assert receiver.end() == 0
    stopped = receiver.run("status")
    assert stopped.returncode == 1
    assert "the receiver does not run" in stopped.stderr

    unknown = receiver.settings_file.read_text().replace("service: streamflix", "service: nowhere")
    receiver.settings_file.write_text(unknown)
    alone = receiver.run("status")
    assert alone.returncode == 3
    assert str(listing(site, source).stretches[0].end) in alone.stdout


def test_the_private_folder_is_private(site: Site, source: Source) -> None:
    with archiving(site, source):
        eventually(is_sealed_to_now(site, source))
    folder = site.settings.paths.received_folder / CLUSTER
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path

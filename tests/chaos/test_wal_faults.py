"""What goes wrong around the WAL receiver: nothing is lost, nothing is sealed that is not whole, no gap is silent."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
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
    load,
    receiving,
    second_receiver,
    small_segments,
    told,
)
from tests.support.recovered import reading
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.capture import capture_night
from pgbackup.domain.errors import UnfitError
from pgbackup.domain.ports import Site
from pgbackup.domain.target import Latest
from pgbackup.domain.wal import is_segment
from pgbackup.postgres import replication
from pgbackup.recover import recover_cluster
from pgbackup.restore.received import receiver_folder
from pgbackup.wal import create_slot, receive, wal_status

CLUSTER = "streamflix"


@pytest.fixture(scope="module")
def busy() -> Iterator[Source]:
    """A server of these tests: restarted, promoted, asked for too much."""
    own = small_segments()
    yield own
    own.remove()


@pytest.fixture
def source(busy: Source) -> Iterator[Source]:
    yield busy
    busy.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


@pytest.fixture
def site(source: Source, tmp_path: Path, key: KeyPair) -> Site:
    own = make_site(tmp_path, source, "", key)
    create_slot(own, CLUSTER)
    return own


@pytest.fixture
def receiver(site: Site, source: Source, tmp_path: Path, key: KeyPair) -> Iterator[Receiver]:
    own = Receiver(tmp_path, source, key)
    yield own
    own.end(signal.SIGKILL)


def files(site: Site) -> Path:
    """The folder of the only system that was received from."""
    [folder] = receiver_folder(site.settings, CLUSTER).glob("[0-9]*")
    return folder


def slot_is_active(source: Source) -> bool:
    with source.connect("postgres") as connection:
        found = replication.slot(connection, "pgbackup")
    return found is not None and found.active


def make_anew(source: Source) -> None:
    """Drop the slot, let the server remove what it kept, and make the slot again."""
    source.execute("SELECT pg_drop_replication_slot('pgbackup')")
    with source.connect("postgres") as connection:
        row = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
        assert row
        kept = source.data / "pg_wal" / str(row[0])

    def removed() -> bool:
        fill(source, 3)
        source.execute("CHECKPOINT")
        return not kept.exists()

    eventually(removed)
    source.execute("SELECT pg_create_physical_replication_slot('pgbackup', true)")


def test_killed_at_any_moment_it_loses_nothing_and_doubles_nothing(
    site: Site, source: Source, receiver: Receiver, tmp_path: Path
) -> None:
    chance = random.Random(3)
    with second_receiver(source, tmp_path / "sent") as sent:
        with load(source):
            for _ in range(5):
                receiver.start()
                time.sleep(chance.uniform(0.5, 2.0))
                assert receiver.end(signal.SIGKILL) == -signal.SIGKILL
        receiver.start()
        eventually(is_sealed_to_now(site, source))
        assert receiver.end() == 0
        found = check_archive(site, source, tmp_path / "fetched", sent)
    assert len(found.stretches) == 1
    assert len(found.segments) > 5
    assert {path.suffix for path in files(site).iterdir()} <= {"", ".partial"}
    assert [path.name for path in files(site).iterdir() if is_segment(path.name) or path.name.startswith(".")] == []


def test_a_file_that_a_kill_left_half_laid_out_is_no_obstacle(
    site: Site, source: Source, receiver: Receiver, tmp_path: Path
) -> None:
    """pg_receivewal refuses to start over such a file, for ever."""
    with receiving(receiver):
        eventually(is_sealed_to_now(site, source))
        fill(source, 1)
    [partial] = [path for path in files(site).iterdir() if path.suffix == ".partial"] or [None]
    if partial is None:
        last = max(listing(site, source).segments)
        partial = files(site) / f"{last.next().name}.partial"
    partial.write_bytes(bytes(MEGABYTE // 2))
    with receiving(receiver):
        eventually(is_sealed_to_now(site, source))
    assert len(check_archive(site, source, tmp_path / "fetched").stretches) == 1


def test_a_restarted_server_is_received_from_again(
    site: Site, source: Source, receiver: Receiver, tmp_path: Path
) -> None:
    with second_receiver(source, tmp_path / "sent") as sent, receiving(receiver):
        with load(source):
            time.sleep(1)
            source.stop(signal.SIGQUIT)  # as by a crash
            source.start()
        eventually(is_sealed_to_now(site, source))
        assert receiver.end() == 0
        assert len(check_archive(site, source, tmp_path / "fetched", sent).stretches) == 1


def test_a_promoted_server_is_followed_to_its_new_timeline(
    site: Site, source: Source, receiver: Receiver, tmp_path: Path
) -> None:
    with receiving(receiver):
        eventually(lambda: told(site).receiving)
        fill(source, 1)
        source.stop()
        (source.data / "standby.signal").touch()
        source.start()
        eventually(lambda: told(site).receiving and slot_is_active(source))
        source.execute("SELECT pg_promote()")
        fill(source, 2)
        eventually(is_sealed_to_now(site, source))
        assert receiver.end() == 0
    found = check_archive(site, source, tmp_path / "fetched")
    timelines = sorted({one.timeline for one in found.stretches})
    assert timelines[-1] in found.histories
    assert timelines[-1] == timelines[0] + 1
    assert len(found.stretches) == 2
    assert [problem for problem in wal_status(site, CLUSTER).problems if "gap" in problem] == []
    assert not [one for one in found.segments if one.timeline == timelines[0] and one.start >= found.stretches[1].start]


def test_no_acknowledged_commit_is_lost_with_the_server_that_waits_for_the_receiver(
    source: Source, tmp_path: Path, key: KeyPair, catalog_dsn: str
) -> None:
    """Nor does a capture's own stream of WAL, which is there as well, count for the receiver's."""
    site = make_site(tmp_path, source, catalog_dsn, key)
    create_slot(site, CLUSTER)
    source.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
    try:
        with receiving(Receiver(tmp_path, source, key)):
            source.execute("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (pgbackup_receiver)'")
            source.execute("SELECT pg_reload_conf()")
            with acknowledged(source) as ids:
                capture_night(site, CLUSTER)
                during = len(ids)
                eventually(lambda: len(ids) > during + 100)
                source.stop(signal.SIGKILL)
    finally:
        source.start()
        source.execute("ALTER SYSTEM RESET synchronous_standby_names")
        source.execute("SELECT pg_reload_conf()")
    recovered = recover_cluster(site, CLUSTER, Latest(), into=tmp_path / "new")
    with reading(recovered, source, "app") as connection:
        there = {number for (number,) in connection.execute("SELECT id FROM row")}
    assert during > 0
    assert ids - there == set()


@contextlib.contextmanager
def acknowledged(source: Source) -> Iterator[set[int]]:
    """Clients that commit until the server is gone, and what they were told; the server waits for one receiver."""
    ids: set[int] = set()
    others: set[str] = set()

    def commit() -> None:
        with contextlib.suppress(psycopg.OperationalError), source.connect("app") as connection:
            while True:
                [number] = connection.execute("INSERT INTO row DEFAULT VALUES RETURNING id").fetchone() or (0,)
                ids.add(number)
                names = "SELECT application_name FROM pg_stat_replication WHERE sync_state <> 'async'"
                others.update(name for (name,) in connection.execute(names))

    threads = [threading.Thread(target=commit) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield ids
    finally:
        source.stop(signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert others == {"pgbackup_receiver"}


def test_a_full_archive_ends_neither_receiving_nor_sealing_for_good(
    site: Site, source: Source, receiver: Receiver, tmp_path: Path
) -> None:
    """Files of the receiver itself may not grow any more; pg_receivewal, which runs already, is not concerned."""
    with second_receiver(source, tmp_path / "sent") as sent, receiving(receiver) as running:
        eventually(lambda: told(site).receiving)
        process = running.process
        assert process is not None
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (MEGABYTE // 4, most))
        fill(source, 4)
        eventually(lambda: told(site).unsealed)
        assert "no space left" in next(iter(told(site).unsealed.values()))
        position = told(site).received_lsn
        fill(source, 1)
        eventually(lambda: told(site).received_lsn != position)  # it goes on
        status = running.run("status")
        assert status.returncode == 1
        assert "cannot be sealed: no space left" in status.stderr
        assert told(site).backlog > 0

        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        eventually(is_sealed_to_now(site, source))
        eventually(lambda: not told(site).unsealed)
        assert running.end() == 0
        assert len(check_archive(site, source, tmp_path / "fetched", sent).stretches) == 1


def test_a_key_that_is_gone_does_not_end_receiving(site: Site, source: Source, tmp_path: Path, key: KeyPair) -> None:
    public = tmp_path / "copy.asc"
    keys = type(key)(public, key.private, key.passphrase_file)
    with receiving(Receiver(tmp_path, source, keys)) as running:
        fill(source, 1)
        eventually(lambda: told(site).unsealed)
        assert told(site).receiving
        public.write_bytes(key.public.read_bytes())
        eventually(is_sealed_to_now(site, source))
        assert running.end() == 0
    assert len(check_archive(site, source, tmp_path / "fetched").stretches) == 1


def test_a_slot_that_was_made_anew_is_no_silent_gap(site: Site, source: Source, receiver: Receiver) -> None:
    with receiving(receiver):
        eventually(is_sealed_to_now(site, source))
    make_anew(source)
    with receiving(receiver):
        eventually(lambda: told(site).gap)
        assert receiver.run("status").returncode == 1
        eventually(is_sealed_to_now(site, source))  # it goes on behind the gap
    assert len(listing(site, source).stretches) == 2
    document = json.loads(receiver.run("status", "--json").stdout)
    [gap] = document["archives"][0]["gaps"]
    assert any(gap in problem for problem in document["problems"])


def test_what_the_server_still_has_is_no_gap(site: Site, source: Source, receiver: Receiver, tmp_path: Path) -> None:
    """A slot made anew begins too late, our disk is empty: the server has what lies between, and is asked for it."""
    with receiving(receiver):
        eventually(is_sealed_to_now(site, source))
    source.execute("SELECT pg_create_physical_replication_slot('spare', true)")  # somebody else needs it too
    source.execute("SELECT pg_drop_replication_slot('pgbackup')")
    fill(source, 2)
    source.execute("CHECKPOINT")  # a new slot begins here
    source.execute("SELECT pg_create_physical_replication_slot('pgbackup', true)")
    shutil.rmtree(files(site))
    with receiving(receiver):
        eventually(is_sealed_to_now(site, source))
        assert told(site).gap is None
    assert len(check_archive(site, source, tmp_path / "fetched").stretches) == 1


@pytest.mark.parametrize("trouble", ["missing", "lost"])
def test_without_its_slot_it_says_what_to_do(site: Site, source: Source, trouble: str) -> None:
    if trouble == "missing":
        source.execute("SELECT pg_drop_replication_slot('pgbackup')")
    else:
        source.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        source.execute("SELECT pg_reload_conf()")
        fill(source, 4)
        source.execute("CHECKPOINT")
        source.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        source.execute("SELECT pg_reload_conf()")
    with pytest.raises(UnfitError) as caught:
        receive(site, CLUSTER, stop=lambda: False)
    assert "pgbackup wal create-slot" in str(caught.value.hint)
    assert "new base" in str(caught.value.hint)
    assert caught.value.exit_code == 3
    problems = " ".join(wal_status(site, CLUSTER).problems)
    assert f"slot is {trouble}" in problems


def test_another_system_behind_the_same_connection_is_kept_apart(
    site: Site, source: Source, tmp_path: Path, key: KeyPair
) -> None:
    """As after pg_upgrade or a new initdb: the same names of segments, another history."""
    with archiving(site, source):
        eventually(is_sealed_to_now(site, source))
    other = small_segments()
    try:
        after = make_site(tmp_path, other, "", key)
        with archiving(after, other):
            eventually(is_sealed_to_now(after, other))
        found = wal_status(after, CLUSTER)
        assert [len(one.stretches) for one in found.archives] == [1, 1]
        assert [one.conflicts for one in found.archives] == [(), ()]
        assert [problem for problem in found.problems if "run" not in problem] == []
    finally:
        other.remove()

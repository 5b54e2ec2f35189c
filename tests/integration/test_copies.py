"""Copies: the same bytes in each region, whatever happens on the way; what a region lacks is known."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.faulty import FaultyWay
from tests.support.s3 import Region
from tests.support.source import ROOT, Source

from pgbackup.capture import capture_full
from pgbackup.catalog.rebuild import committed, rebuild
from pgbackup.copy import copy_backup, copy_missing, copy_wal, missing_copies
from pgbackup.domain.errors import RefusedError, UnavailableError, UnfitError
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.model import CopyState
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Sealed
from pgbackup.restore.fetch import DamagedError, check_stored, describe_copy
from pgbackup.store import LocalStore
from pgbackup.verify import pending, verify
from pgbackup.watch import names, watch

FAR = "eu-central-1"


@pytest.fixture
def way(region: Region) -> Iterator[FaultyWay]:
    own = FaultyWay(region.port + 3)
    yield own
    own.close()


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source, region: Region, way: FaultyWay, tmp_path: Path) -> Site:
    """One region behind a way on which things go wrong, one that is a folder."""
    site = site_for(library)
    far = region.store(tmp_path.name, name=FAR, endpoint=way.endpoint, timeout="1s")
    others = {FAR: far, "cellar": LocalStore(tmp_path / "cellar", name="cellar")}
    return dataclasses.replace(site, repositories={**site.repositories, **others})


def keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(found.key for found in store.list(prefix))


def contents(store: Store, prefix: str = "") -> list[tuple[str, bytes]]:
    return [(key, store.read(key)) for key in keys(store, prefix)]


def is_whole(store: Store, backup_id: str) -> bool:
    return check_stored(store, describe_copy(store, BackupId.parse(backup_id))) > 0


def state(site: Site, backup_id: str, repository: str) -> CopyState | None:
    return {copy.repository: copy.state for copy in site.catalog.copies(backup_id)}.get(repository)


def test_a_copy_is_the_same_backup_and_proves_itself(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    assert [backup.id for backup in missing_copies(site, "streamflix", FAR)] == [backup_id]
    for repository in (FAR, "cellar"):
        copied = copy_backup(site, backup_id, repository)
        far = site.repositories[repository]
        assert copied.bytes == sum(found.bytes for found in site.local.list("full/"))
        assert [(key, far.read(key)) for key in keys(far)] == [
            (key, site.local.read(key)) for key in keys(site.local, "full/")
        ]
        assert state(site, backup_id, repository) is CopyState.STORED
        assert missing_copies(site, "streamflix", repository) == ()
        assert copy_backup(site, backup_id, repository).bytes == 0
    assert verify(site, backup_id, FAR).verdict == "verified"
    assert state(site, backup_id, FAR) is CopyState.VERIFIED


def test_a_region_that_is_down_delays_no_other_and_is_caught_up(site: Site, way: FaultyWay) -> None:
    backup_id = capture_full(site, "streamflix").id
    for fault in ("refusing", "hanging"):
        setattr(way, fault, True)
        with pytest.raises(UnavailableError):
            copy_missing(site, "streamflix", FAR)
        setattr(way, fault, False)
    way.answer, way.answers = 503, 100
    with pytest.raises(UnavailableError):
        copy_missing(site, "streamflix", FAR)
    way.heal()
    assert [one.backup_id for one in copy_missing(site, "streamflix", "cellar")] == [backup_id]
    assert (state(site, backup_id, FAR), state(site, backup_id, "cellar")) == (None, CopyState.STORED)
    assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]
    assert is_whole(site.repositories[FAR], backup_id)


def test_credentials_that_are_revoked_midway_need_people_and_lose_nothing(site: Site, way: FaultyWay) -> None:
    backup_id = capture_full(site, "streamflix").id
    far = site.repositories[FAR]
    revoked = _Going(far, 2)
    revoked.goes = lambda: setattr(way, "answer", 403) or setattr(way, "answers", 1000)
    with pytest.raises(UnfitError, match="credentials"):
        copy_missing(dataclasses.replace(site, repositories={**site.repositories, FAR: revoked}), "streamflix", FAR)
    way.heal()
    assert len(keys(far)) == 2
    assert list(committed(far)) == []
    copy_missing(site, "streamflix", FAR)
    assert is_whole(far, backup_id)


def test_the_catalog_is_rebuilt_from_one_region_alone(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_missing(site, "streamflix", FAR)
    before = site.catalog.backup(backup_id)
    empty = {FAR: site.repositories[FAR], "local": LocalStore(site.settings.paths.backups / "new")}
    with site.catalog._session() as connection:
        connection.execute("TRUNCATE backup_log CASCADE")
    alone = dataclasses.replace(site, repositories=empty)
    assert rebuild(alone.catalog, alone.repositories[FAR], now=alone.clock()) == (backup_id,)
    after = alone.catalog.backup(backup_id)
    assert before is not None
    assert after is not None
    assert (after.backup_time, after.bytes, [copy.repository for copy in after.copies]) == (
        before.backup_time,
        before.bytes,
        [FAR],
    )
    assert verify(alone, backup_id, FAR).verdict == "verified"


def test_a_missing_bucket_needs_people(site: Site, region: Region) -> None:
    capture_full(site, "streamflix")
    lost = dataclasses.replace(site, repositories={**site.repositories, FAR: region.store(bucket="none", name=FAR)})
    with pytest.raises(UnfitError, match="bucket"):
        copy_missing(lost, "streamflix", FAR)


def test_what_is_there_after_a_fault_stays_and_nothing_counts_before_all_is(site: Site) -> None:
    """The region goes away before each object in turn: what it holds is no backup until the last one."""
    backup_id = capture_full(site, "streamflix").id
    far, sent = site.repositories[FAR], 0
    names = [key.rsplit("/", 1)[1] for key in keys(site.local, "full/")]
    for number in range(len(names)):
        limited = dataclasses.replace(site, repositories={**site.repositories, FAR: _Going(far, number and 1)})
        with pytest.raises(UnavailableError):
            copy_backup(limited, backup_id, FAR)
        assert len(keys(far)) == number
        assert list(committed(far)) == []
    assert SUMS not in keys(far)[-1]
    sent = copy_backup(site, backup_id, FAR).bytes
    assert sent == len(site.local.read(f"full/{backup_id}/{SUMS}"))
    assert is_whole(far, backup_id)


def test_a_copy_is_taken_up_after_a_kill_at_each_step(site: Site, tmp_path: Path) -> None:
    backup_id = capture_full(site, "streamflix").id
    far = LocalStore(tmp_path / "killed")
    total = len(keys(site.local, "full/"))
    script = (
        "import os, signal, sys; from pathlib import Path; from types import SimpleNamespace as Some\n"
        "from pgbackup.copy import backups; from pgbackup.store import LocalStore\n"
        "copy = backups.copy_object; left = [int(sys.argv[4])]\n"
        "def one(source, target, key, digest, *, progress):\n"
        "    with source.open(key) as file, target.create(key) as sink:\n"
        "        sink.write(file.read(10))\n"
        "        if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        left[0] -= 1\n"
        "        raise KeyError\n"
        "def killed(*given, **named):\n"
        "    try: one(*given, **named)\n"
        "    except KeyError: return copy(*given, **named)\n"
        "backups.copy_object = killed\n"
        "local, far = LocalStore(Path(sys.argv[1])), LocalStore(Path(sys.argv[2]))\n"
        "catalog = Some(copies=lambda _id: ())\n"
        "backups.copy_backup(Some(local=local, repositories={'far': far}, catalog=catalog,"
        " progress=lambda *_: None), sys.argv[3], 'far')"
    )
    for number in range(total):
        argv = [sys.executable, "-c", script, str(site.settings.paths.backups), str(tmp_path / "killed"), backup_id]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
        done = subprocess.run([*argv, "1" if number else "0"], env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(keys(far)) == number
        assert list(committed(far)) == []
    site = dataclasses.replace(site, repositories={**site.repositories, "killed": far})
    copy_backup(site, backup_id, "killed")
    assert is_whole(far, backup_id)


def test_a_damaged_backup_is_not_spread(site: Site) -> None:
    first, second = (capture_full(site, "streamflix").id, None)
    path = next(site.settings.paths.backups.glob(f"full/{first}/*.dump.gpg"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    second = _later(site)
    with pytest.raises(DamagedError, match="checksum"):
        copy_missing(site, "streamflix", FAR)
    assert [str(found) for found in committed(site.repositories[FAR])] == [second]
    assert [backup.id for backup in missing_copies(site, "streamflix", FAR)] == [first]


@pytest.mark.parametrize("loss", ["changed", "lost"])
def test_what_a_region_damaged_is_found_and_copied_again(site: Site, loss: str) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_backup(site, backup_id, FAR)
    far = site.repositories[FAR]
    key = next(key for key in keys(far) if key.endswith(".dump.gpg"))
    data = far.read(key)
    far.delete(key)
    if loss == "changed":
        with far.create(key) as sink:
            sink.write(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(site, backup_id, FAR).verdict == "rejected"
    assert state(site, backup_id, FAR) is CopyState.DAMAGED
    assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]
    assert state(site, backup_id, FAR) is CopyState.STORED
    assert is_whole(far, backup_id)


def test_one_copy_of_each_backup_is_proved_and_then_one_more_of_each_repository(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_missing(site, "streamflix", FAR)
    copy_missing(site, "streamflix", "cellar")
    assert pending(site, "streamflix") == ((backup_id, "local"),)
    verify(site, backup_id, "local")
    assert sorted(pending(site, "streamflix")) == [(backup_id, name) for name in ("cellar", FAR, "local")]


def test_a_bad_copy_judged_first_rejects_no_backup_whose_original_nobody_judged(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_backup(site, backup_id, "cellar")
    site.repositories["cellar"].delete(f"full/{backup_id}/globals.sql.gpg")
    assert verify(site, backup_id, "cellar").verdict == "rejected"
    assert [backup.state for backup in site.catalog.backups()] == ["captured"]
    assert verify(site, backup_id, "local").verdict == "verified"
    assert [backup.state for backup in site.catalog.backups()] == ["verified"]


# --------------------------------------------------------------------------------------------------- the watch


def test_the_watch_tells_what_is_not_off_site(site: Site, way: FaultyWay) -> None:
    capture_full(site, "streamflix")
    seal(site.local, 1)

    def failing(later: timedelta) -> set[str]:
        at = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + later)
        return {one.name for one in watch(at, "streamflix") if not one.ok} & everything

    everything = {named(name) for named in (names.wal_in, names.backups_in) for name in (FAR, "cellar")}
    soon, late = timedelta(0), timedelta(hours=7)
    assert failing(soon) == {names.wal_in(FAR), names.wal_in("cellar")}
    assert failing(late) == everything
    way.refusing = True
    for repository in (FAR, "cellar"):
        with contextlib.suppress(UnavailableError):
            copy_wal(site, "streamflix", repository)
        with contextlib.suppress(UnavailableError):
            copy_missing(site, "streamflix", repository)
    assert failing(soon) == {names.wal_in(FAR)}
    assert failing(late) == everything - {names.backups_in("cellar")}
    way.heal()
    copy_wal(site, "streamflix", FAR)
    copy_missing(site, "streamflix", FAR)
    assert failing(soon) == set()
    assert failing(late) == {names.wal_in(FAR), names.wal_in("cellar")}


# --------------------------------------------------------------------------------------------------------- WAL


def seal(store: Store, number: int) -> Sealed:
    """A file of the archive as the sealer leaves it; what is in it is nothing to copying."""
    data = os.urandom(1000)
    name = f"0000000100000000{number:08X}"
    sealed = Sealed(
        cluster="streamflix", name=name, system_identifier="7", timeline=1, segment_size=1 << 24,
        plain_bytes=1 << 24, plain_sha256=sha256(name.encode()).hexdigest(), stored_bytes=len(data),
        stored_sha256=sha256(data).hexdigest(), encrypted=True, sealed_at=datetime.now(UTC),
    )  # fmt: skip
    for key, content in ((sealed.data_key, data), (sealed.sidecar_key, sealed.to_json())):
        with store.create(key) as sink:
            sink.write(content)
    return sealed


def sidecars(store: Store) -> list[str]:
    return [key for key in keys(store, "wal/") if key.endswith(".json")]


def test_wal_is_copied_oldest_first_and_once(site: Site) -> None:
    for number in range(1, 6):
        seal(site.local, number)
    before = datetime.now(UTC)
    assert copy_wal(site, "streamflix", FAR) == 5
    far = site.repositories[FAR]
    assert [(key, far.read(key)) for key in keys(far)] == [
        (key, site.local.read(key)) for key in keys(site.local, "wal/")
    ]
    assert copy_wal(site, "streamflix", FAR) == 0
    seal(site.local, 6)
    assert copy_wal(site, "streamflix", FAR) == 1
    (reached,) = site.catalog.wal_copies("streamflix")
    assert (reached.repository, reached.missing, reached.error) == (FAR, 0, "")
    assert reached.whole_at is not None
    assert reached.whole_at > before


def test_how_far_a_region_is_is_known_when_it_goes(site: Site, way: FaultyWay) -> None:
    first = [seal(site.local, number) for number in range(1, 3)]
    copy_wal(site, "streamflix", FAR)
    (before,) = site.catalog.wal_copies("streamflix")
    later = [seal(site.local, number) for number in range(3, 8)]
    far = site.repositories[FAR]
    limited = dataclasses.replace(site, repositories={**site.repositories, FAR: _Going(far, 3)})
    with pytest.raises(UnavailableError):
        copy_wal(limited, "streamflix", FAR)
    held = sidecars(far)
    assert held == sorted(one.sidecar_key for one in (*first, *later))[: len(held)]
    (reached,) = site.catalog.wal_copies("streamflix")
    assert reached.missing == 7 - len(held)
    missing = [found for found in site.local.list("wal/") if found.key.endswith(".json") and found.key not in held]
    assert reached.whole_at is not None
    assert before.whole_at is not None
    assert before.whole_at < reached.whole_at < min(found.modified for found in missing)
    assert reached.error
    way.refusing = True
    with pytest.raises(UnavailableError):
        copy_wal(site, "streamflix", FAR)
    assert site.catalog.wal_copies("streamflix")[0].whole_at == reached.whole_at
    way.heal()
    copy_wal(site, "streamflix", FAR)
    assert sidecars(far) == sidecars(site.local)


def test_a_damaged_segment_holds_no_other_back(site: Site) -> None:
    sealed = [seal(site.local, number) for number in range(1, 5)]
    path = site.settings.paths.backups / sealed[1].data_key
    path.chmod(0o600)
    path.write_bytes(b"other")
    with pytest.raises(RefusedError, match="checksum"):
        copy_wal(site, "streamflix", FAR)
    assert sidecars(site.repositories[FAR]) == sorted(sealed[number].sidecar_key for number in (0, 2, 3))
    assert site.catalog.wal_copies("streamflix")[0].missing == 1


def test_bytes_that_a_killed_copy_left_are_taken_or_replaced(site: Site) -> None:
    sealed = [seal(site.local, number) for number in (1, 2)]
    far = site.repositories[FAR]
    for one, data in zip(sealed, (site.local.read(sealed[0].data_key), b"half"), strict=True):
        with far.create(one.data_key) as sink:
            sink.write(data)
    copy_wal(site, "streamflix", FAR)
    assert [(key, far.read(key)) for key in keys(far)] == [
        (key, site.local.read(key)) for key in keys(site.local, "wal/")
    ]


def _gone() -> None:
    raise UnavailableError("gone")


class _Going:
    """A repository that goes away after some more objects."""

    def __init__(self, store: Store, left: int) -> None:
        self._store = store
        self._left = left
        self.goes: Callable[[], object] = _gone

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def create(self, key: str) -> object:
        if not self._left:
            self.goes()
        self._left -= 1
        return self._store.create(key)


def _later(site: Site) -> str:
    """Another backup, of the next minute."""
    ahead = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + timedelta(minutes=1))
    return capture_full(ahead, "streamflix").id

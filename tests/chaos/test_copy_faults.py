"""Regions that fail while something is copied: what counts there is always whole, and the next copy completes it."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore import auth
from tests.support.copies import FAR, Going, contents, damage, is_whole, keys, put, seal, sidecars, state
from tests.support.doomed import Call, Nursery
from tests.support.faulty import FaultyWay
from tests.support.keys import KeyPair
from tests.support.s3 import Region
from tests.support.source import ROOT, Source

from pgbackup.capture import capture_full
from pgbackup.copy import copy_backup, copy_missing, copy_wal, missing_copies
from pgbackup.domain.errors import UnavailableError, UnfitError
from pgbackup.domain.ids import SIGNATURE, SUMS
from pgbackup.domain.model import CopyState
from pgbackup.domain.ports import Site
from pgbackup.restore.fetch import DamagedError
from pgbackup.restore.rebuild import committed
from pgbackup.store import LocalStore
from pgbackup.verify import verify


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source, region: Region, way: FaultyWay, tmp_path: Path) -> Site:
    """One region behind a way on which things go wrong, one that is a folder."""
    site = site_for(library)
    far = region.store(tmp_path.name, name=FAR, endpoint=way.endpoint, timeout="10s")
    others = {FAR: far, "cellar": LocalStore(tmp_path / "cellar", name="cellar")}
    return dataclasses.replace(site, repositories={**site.repositories, **others})


# -------------------------------------------------------------------------------------------- a region that fails


def test_a_region_that_is_down_delays_no_other_and_is_caught_up(
    site: Site, region: Region, way: FaultyWay, tmp_path: Path
) -> None:
    backup_id = capture_full(site, "streamflix").id
    impatient = region.store(tmp_path.name, name=FAR, endpoint=way.endpoint, timeout="0.3s")
    for fault in ("refusing", "hanging"):
        setattr(way, fault, True)
        with pytest.raises(UnavailableError):
            copy_missing(
                dataclasses.replace(site, repositories={**site.repositories, FAR: impatient}), "streamflix", FAR
            )
        setattr(way, fault, False)
    way.answer, way.answers = 503, 100
    with pytest.raises(UnavailableError):
        copy_missing(site, "streamflix", FAR)
    way.heal()
    assert [one.backup_id for one in copy_missing(site, "streamflix", "cellar")] == [backup_id]
    assert (state(site, backup_id, FAR), state(site, backup_id, "cellar")) == (None, CopyState.STORED)
    assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]
    assert is_whole(site, site.repositories[FAR], backup_id)


@pytest.mark.parametrize("fault", ["cut", "500", "503", "other bytes"])
def test_a_copy_gets_through_a_bad_way_or_is_none(site: Site, way: FaultyWay, fault: str) -> None:
    backup_id = capture_full(site, "streamflix").id
    far = site.repositories[FAR]
    if fault == "cut":
        way.cut("up", after=2000, times=3)
    elif fault == "other bytes":
        way.flip = ("up", b'"backup_time"', b'"backup_TIME"')  # in the manifest, which is not encrypted
        with pytest.raises((UnavailableError, UnfitError)):
            copy_missing(site, "streamflix", FAR)
        assert list(committed(far)) == []
        way.heal()
    else:
        way.answer, way.answers = int(fault), 3
    copy_missing(site, "streamflix", FAR)
    assert not way.cuts
    assert is_whole(site, far, backup_id)
    assert contents(far) == contents(site.local, "full/")


def test_credentials_that_are_revoked_midway_need_people_and_lose_nothing(site: Site, way: FaultyWay) -> None:
    backup_id = capture_full(site, "streamflix").id
    far = site.repositories[FAR]
    revoked = Going(far, 2, lambda: setattr(way, "answer", 403) or setattr(way, "answers", 1000))
    with pytest.raises(UnfitError, match="credentials"):
        copy_missing(dataclasses.replace(site, repositories={**site.repositories, FAR: revoked}), "streamflix", FAR)
    way.heal()
    assert len(keys(far)) == 2
    assert list(committed(far)) == []
    copy_missing(site, "streamflix", FAR)
    assert is_whole(site, far, backup_id)


def test_a_missing_bucket_needs_people(site: Site, region: Region) -> None:
    capture_full(site, "streamflix")
    lost = dataclasses.replace(site, repositories={**site.repositories, FAR: region.store(bucket="none", name=FAR)})
    with pytest.raises(UnfitError, match="bucket"):
        copy_missing(lost, "streamflix", FAR)


def test_a_wrong_clock_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = auth.get_current_datetime
    capture_full(site, "streamflix")
    monkeypatch.setattr(auth, "get_current_datetime", lambda *given: now(*given) + timedelta(hours=1))
    for copy in (copy_missing, copy_wal):
        if copy is copy_wal:
            seal(site.local, 1)
        with pytest.raises(UnfitError) as caught:
            copy(site, "streamflix", FAR)
        assert "RequestTimeTooSkewed" in (caught.value.detail or "")
        assert caught.value.hint == "set this machine's clock"
    monkeypatch.undo()
    assert len(copy_missing(site, "streamflix", FAR)) == copy_wal(site, "streamflix", FAR) == 1


def test_a_full_disk_there_delays_no_other_and_holds_nothing_half(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files, which the dump reaches in the middle: a write meets what a full disk gives."""
    backup_id = capture_full(site, "streamflix").id
    cellar = site.repositories["cellar"]
    dump = site.settings.paths.backups / "full" / backup_id / "library.dump.gpg"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        create = cellar.create

        def limited(key: str) -> object:
            resource.setrlimit(resource.RLIMIT_FSIZE, (dump.stat().st_size // 2 if "dump" in key else soft, hard))
            return create(key)

        monkeypatch.setattr(cellar, "create", limited)
        with pytest.raises(UnavailableError, match="no space left"):
            copy_missing(site, "streamflix", "cellar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    monkeypatch.undo()
    assert list(committed(cellar)) == []
    assert all("dump" not in key for key in keys(cellar))
    assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]
    assert [one.backup_id for one in copy_missing(site, "streamflix", "cellar")] == [backup_id]
    assert is_whole(site, cellar, backup_id)


def test_what_is_there_after_a_fault_stays_and_nothing_counts_before_all_is(site: Site) -> None:
    """The region goes away before each object in turn: what it holds is no backup until the last one."""
    backup_id = capture_full(site, "streamflix").id
    far, sent = site.repositories[FAR], 0
    names = [key.rsplit("/", 1)[1] for key in keys(site.local, "full/")]
    for number in range(len(names)):
        limited = dataclasses.replace(site, repositories={**site.repositories, FAR: Going(far, number and 1)})
        with pytest.raises(UnavailableError):
            copy_backup(limited, backup_id, FAR)
        assert len(keys(far)) == number
        assert list(committed(far)) == []
    assert SUMS not in keys(far)[-1]
    sent = copy_backup(site, backup_id, FAR).bytes
    assert sent == len(site.local.read(f"full/{backup_id}/{SUMS}"))
    assert is_whole(site, far, backup_id)


def test_how_far_a_region_is_is_known_when_it_goes(site: Site, way: FaultyWay) -> None:
    first = [seal(site.local, number) for number in range(1, 3)]
    copy_wal(site, "streamflix", FAR)
    (before,) = site.catalog.wal_copies("streamflix")
    later = [seal(site.local, number) for number in range(3, 8)]
    far = site.repositories[FAR]
    limited = dataclasses.replace(site, repositories={**site.repositories, FAR: Going(far, 3)})
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


# ---------------------------------------------------------------------------------------------- what is damaged


def test_a_damaged_backup_is_not_spread(site: Site) -> None:
    first = capture_full(site, "streamflix").id
    damage(next(site.settings.paths.backups.glob(f"full/{first}/*.dump.gpg")))
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
    assert is_whole(site, far, backup_id)


def test_what_a_region_lost_is_seen_by_the_next_copy(site: Site) -> None:
    """Without a verification: what is listed here and not there is lost."""
    backup_id = capture_full(site, "streamflix").id
    far = site.repositories[FAR]
    for lost in ("library.dump.gpg", SUMS, "manifest.json"):
        copy_missing(site, "streamflix", FAR)
        far.delete(f"full/{backup_id}/{lost}")
        assert missing_copies(site, "streamflix", FAR) == ()
        assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]
        assert is_whole(site, far, backup_id)
    far.clean(f"full/{backup_id}")
    assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]
    assert contents(far) == contents(site.local, "full/")


def test_a_damaged_copy_loses_nothing_but_what_is_brought_again(site: Site) -> None:
    """Its own verdicts stay; a signature and keys that came from here are replaced."""
    backup_id = capture_full(site, "streamflix").id
    cellar = site.repositories["cellar"]
    put(site.local, f"full/{backup_id}/{SIGNATURE}", b"good")
    copy_backup(site, backup_id, "cellar")
    for name in ("library.dump.gpg", SIGNATURE):
        damage(cellar.root / "full" / backup_id / name)
    assert verify(site, backup_id, "cellar").verdict == "rejected"
    own = {key: data for key, data in contents(cellar) if "/attest/" in key}
    assert own
    copy_missing(site, "streamflix", "cellar")
    assert dict(contents(cellar)) == {**dict(contents(site.local, "full/")), **own}


# -------------------------------------------------------------------------------------------------------- killed


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    own = Nursery()
    yield own
    own.close()


def call_of(verb: str, library: Source, catalog_dsn: str, key: KeyPair, folder: Path, into: Path) -> Call:
    return Call(
        verb=verb,
        folder=str(folder),
        bin=str(library.bin),
        socket=str(library.folder),
        port=library.port,
        catalog_dsn=catalog_dsn,
        key=(str(key.public), str(key.private), str(key.passphrase_file)),
        cluster={"exclude_databases": ["postgres"]},
        into=str(into),
    )


def test_a_copy_is_taken_up_after_a_kill_at_each_moment(
    site: Site, nursery: Nursery, library: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path
) -> None:
    """In a repository of its own each; then all of them in one, one after the other."""
    backup_id = capture_full(site, "streamflix").id
    for name in (SIGNATURE, "key.2.gpg", "attest/a.json"):
        put(site.local, f"full/{backup_id}/{name}", name.encode())
    wanted = contents(site.local, "full/")
    call = call_of("copy", library, catalog_dsn, key, tmp_path, tmp_path / "whole")

    def forget() -> None:
        with site.catalog._session() as connection:
            connection.execute("DELETE FROM backup_copy WHERE repository = 'cellar'")

    status, moments = nursery.run(call, None)
    assert status == 0
    assert {"stored manifest.json", "open SHA256SUMS.sig", "written SHA256SUMS", "before copied"} <= set(moments)
    for number, at in enumerate([*moments, *moments]):
        forget()
        own = tmp_path / (str(number) if number < len(moments) else "again")
        cellar = LocalStore(own, name="cellar")
        assert nursery.run(dataclasses.replace(call, into=str(own)), at)[0] in {-signal.SIGKILL, 0}, at
        for found in committed(cellar):
            assert is_whole(site, cellar, str(found)), at
            assert contents(cellar) == wanted, at
        if number < len(moments):
            copied = dataclasses.replace(site, repositories={**site.repositories, "cellar": cellar})
            copy_missing(copied, "streamflix", "cellar")
            assert contents(cellar) == wanted, at
            assert state(site, backup_id, "cellar") is CopyState.STORED, at
    assert contents(LocalStore(tmp_path / "again")) == wanted


def test_a_damaged_copy_is_mended_after_a_kill_at_each_moment(
    site: Site, nursery: Nursery, library: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path
) -> None:
    backup_id = capture_full(site, "streamflix").id
    cellar = site.repositories["cellar"]
    call = call_of("copy", library, catalog_dsn, key, tmp_path, tmp_path / "cellar")

    def spoil() -> None:
        copy_missing(site, "streamflix", "cellar")
        damage(tmp_path / "cellar" / "full" / backup_id / "library.dump.gpg")
        with site.catalog._session() as connection:
            connection.execute("UPDATE backup_copy SET state = 'damaged' WHERE repository = 'cellar'")

    spoil()
    status, moments = nursery.run(call, None)
    assert (status, moments[0]) == (0, f"delete {SUMS}")
    for at in moments:
        spoil()
        assert nursery.run(call, at)[0] == -signal.SIGKILL, at
        for found in committed(cellar) if at != moments[0] else ():
            assert is_whole(site, cellar, str(found)), at
        copy_missing(site, "streamflix", "cellar")
        assert contents(cellar) == contents(site.local, "full/"), at


def test_wal_is_taken_up_after_a_kill_at_each_moment(
    site: Site, nursery: Nursery, library: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path
) -> None:
    """What counts there is always whole and without a gap."""
    sealed = [seal(site.local, number) for number in range(1, 4)]
    wanted = contents(site.local, "wal/")
    call = call_of("copy wal", library, catalog_dsn, key, tmp_path, tmp_path / "whole")
    status, moments = nursery.run(call, None)
    assert (status, moments[-1]) == (0, "after wal_copied")
    for number, at in enumerate(moments):
        with site.catalog._session() as connection:
            connection.execute("TRUNCATE wal_copy")
        cellar = LocalStore(tmp_path / str(number), name="cellar")
        assert nursery.run(dataclasses.replace(call, into=str(cellar.root)), at)[0] == -signal.SIGKILL, at
        held = sidecars(cellar)
        assert held == [one.sidecar_key for one in sealed][: len(held)], at
        assert {one.data_key for one in sealed[: len(held)]} <= set(keys(cellar)), at
        copied = dataclasses.replace(site, repositories={**site.repositories, "cellar": cellar})
        copy_wal(copied, "streamflix", "cellar")
        assert contents(cellar) == wanted, at


def test_bytes_that_a_killed_copy_left_are_taken_or_replaced(site: Site) -> None:
    sealed = [seal(site.local, number) for number in (1, 2)]
    far = site.repositories[FAR]
    for one, data in zip(sealed, (site.local.read(sealed[0].data_key), b"half"), strict=True):
        put(far, one.data_key, data)
    copy_wal(site, "streamflix", FAR)
    assert [(key, far.read(key)) for key in keys(far)] == [
        (key, site.local.read(key)) for key in keys(site.local, "wal/")
    ]


# -------------------------------------------------------------------------------------------------------- memory


def test_a_large_object_is_copied_in_little_memory(region: Region, tmp_path: Path) -> None:
    """A file of 200 MB, in a process that may have no more than its own and the parts under way."""
    source, size = tmp_path / "local" / "full" / "a", 200 << 20
    source.mkdir(parents=True)
    with (source / "b").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    script = (
        "import re, sys; from hashlib import sha256; from pathlib import Path\n"
        "from tests.support.s3 import *; from pgbackup.store import LocalStore\n"
        "from pgbackup.copy.objects import copy_object\n"
        f"settings = S3(bucket=BUCKET, prefix={tmp_path.name!r})\n"
        f"connect = partial(make_client, {region.endpoint!r}, (ACCESS, SECRET), settings)\n"
        "far = S3Store(settings, connect, name='r', clock=lambda: datetime.now(UTC))\n"
        "list(far.list(''))\n"
        "digest = sha256()\n"
        "with Path(sys.argv[1], 'full/a/b').open('rb') as file:\n"
        "    while chunk := file.read(1 << 20): digest.update(chunk)\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "sent = copy_object(LocalStore(Path(sys.argv[1])), far, 'full/a/b', digest.hexdigest())\n"
        "print(sent, peak() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    argv = [sys.executable, "-c", script, str(tmp_path / "local")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    sent, grown = map(int, done.stdout.split())
    assert sent == size
    assert grown < 120 << 10  # kB: four parts of 16 MB, and what is sent of them


def _later(site: Site) -> str:
    """Another backup, of the next minute."""
    ahead = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + timedelta(minutes=1))
    return capture_full(ahead, "streamflix").id

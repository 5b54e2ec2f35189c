"""What a repository on S3 promises besides: parts, faults of the way, what the server keeps of an object."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.faulty import FaultyWay
from tests.support.s3 import ACCESS, BUCKET, SECRET, Region
from tests.support.source import ROOT

from pgbackup.domain.errors import RefusedError, UnavailableError, UnfitError
from pgbackup.store import S3Store, s3, s3_upload

SMALL = 5 << 20
_numbers = itertools.count()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 MiB, the smallest that S3 takes."""
    monkeypatch.setattr(s3_upload, "_FIRST", SMALL)


@pytest.fixture
def way(region: Region) -> Iterator[FaultyWay]:
    own = FaultyWay(region.port + 3)
    yield own
    own.close()


@pytest.fixture
def store(region: Region, way: FaultyWay) -> S3Store:
    return region.store(f"s3-{next(_numbers)}", endpoint=way.endpoint, timeout="2s")


def put(store: S3Store, data: bytes = b"x", key: str = "full/a/b") -> None:
    with store.create(key) as sink:
        sink.write(data)


def keys(store: S3Store) -> list[str]:
    return [found.key for found in store.list("")]


def unfinished(region: Region, store: S3Store) -> list[Any]:
    found = region.admin().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [one for one in found if one["Key"].startswith(store._root)]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1, 4 * SMALL, 5 * SMALL + 17])
def test_parts_are_one_object(region: Region, store: S3Store, size: int) -> None:
    data = os.urandom(size)
    put(store, data)
    assert store.read("full/a/b") == data
    assert store.matches("full/a/b", BytesIO(data))
    assert not store.matches("full/a/b", BytesIO(data[:-1] + bytes([data[-1] ^ 1])))
    with pytest.raises(RefusedError):
        put(store, data)
    assert not unfinished(region, store)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_no_parts(region: Region, store: S3Store, error: type[BaseException]) -> None:
    def write() -> None:
        with store.create("full/a/b") as sink:
            sink.write(bytes(3 * SMALL))
            raise error

    with pytest.raises(error):
        write()
    assert (keys(store), unfinished(region, store)) == ([], [])


def test_what_a_killed_writer_left_is_no_object_and_is_cleaned(region: Region, store: S3Store) -> None:
    script = (
        "import os, signal, sys; from tests.support.s3 import *\n"
        f"endpoint, prefix = {region.endpoint!r}, {store._root!r}\n"
        "settings = S3(bucket=BUCKET, prefix=prefix)\n"
        "connect = partial(make_client, endpoint, (ACCESS, SECRET), settings)\n"
        "with S3Store(settings, connect, name='r', clock=None).create('full/a/b') as sink:\n"
        "    sink.write(bytes(40 << 20)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": "plugins"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (keys(store), len(unfinished(region, store))) == ([], 1)
    put(store)
    store.clean("full/a")
    assert (keys(store), unfinished(region, store)) == ([], [])


def test_long_listings_come_page_by_page(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(25):
        put(store, key=f"full/a/{number:03}")
    pages: list[int] = []
    ask = store._client.list_objects_v2
    monkeypatch.setattr(store._client, "list_objects_v2", lambda **given: pages.append(1) or ask(**given, MaxKeys=10))
    listing = store.list("full/a/")
    assert next(listing).key == "full/a/000"
    assert len(pages) == 1
    assert [found.key[-3:] for found in listing] == [f"{number:03}" for number in range(1, 25)]
    assert len(pages) == 3
    monkeypatch.setattr(s3, "_BATCH", 10)
    store.clean("full/a")
    assert keys(store) == []


# ------------------------------------------------------------------------------------------- faults of the way


@pytest.mark.usefixtures("parts")
def test_a_cut_reading_goes_on_where_it_was_cut(store: S3Store, way: FaultyWay) -> None:
    data = os.urandom(2 * SMALL)
    put(store, data)
    way.cut("down", after=3_000_000, times=3)
    assert store.read("full/a/b") == data
    assert not way.cuts


@pytest.mark.usefixtures("parts")
def test_a_cut_upload_is_tried_again(region: Region, store: S3Store, way: FaultyWay) -> None:
    data = os.urandom(3 * SMALL + 1)
    way.cut("up", after=SMALL // 2, times=2)
    put(store, data)
    assert not way.cuts
    assert store.read("full/a/b") == data


@pytest.mark.parametrize("size", [10, 2 * SMALL])
@pytest.mark.usefixtures("parts")
def test_a_lost_answer_is_no_other_writer(store: S3Store, way: FaultyWay, size: int) -> None:
    """The server has it, the answer is lost, boto asks again and hears that the key is taken: by itself."""
    data = os.urandom(size)
    with store.create("full/a/b") as sink:
        sink.write(data)
        _until(lambda: not getattr(sink, "_pool", None) or all(one.done() for one in sink._under_way))
        way.cut("down", after=1)
    assert not way.cuts
    assert store.read("full/a/b") == data


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_for_a_moment_is_asked_again(store: S3Store, way: FaultyWay, status: int) -> None:
    way.answer, way.answers = status, 2
    put(store)
    assert store.read("full/a/b") == b"x"


@pytest.mark.parametrize("fault", ["refused", "nobody", "hangs", "500", "503"])
def test_a_region_that_is_down_says_so(region: Region, way: FaultyWay, store: S3Store, fault: str) -> None:
    put(store)
    if fault == "nobody":
        with socket.create_server(("127.0.0.1", 0)) as free:
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        down = region.store("s3-down", endpoint=endpoint, timeout="0.3s")
    else:
        down = region.store("s3-down", endpoint=way.endpoint, timeout="0.3s")
        way.refusing, way.hanging = fault == "refused", fault == "hangs"
        way.answer, way.answers = (int(fault), 1000) if fault.isdigit() else (0, 0)
    for ask in (lambda: put(down), lambda: down.read("full/a/b"), lambda: list(down.list(""))):
        with pytest.raises(UnavailableError) as caught:
            ask()
        assert caught.value.hint


@pytest.mark.usefixtures("parts")
def test_a_region_that_goes_in_the_middle_leaves_no_object(region: Region, store: S3Store, way: FaultyWay) -> None:
    def write() -> None:
        with store.create("full/a/b") as sink:
            for _ in range(6):
                sink.write(os.urandom(SMALL))
                way.refusing = True
                way.cut("up", after=1, times=8)

    with pytest.raises(UnavailableError):
        write()
    way.heal()
    assert keys(store) == []
    store.clean("full/a")
    assert unfinished(region, store) == []


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [100, 2 * SMALL])
def test_bytes_that_change_on_the_way_up_are_refused(store: S3Store, way: FaultyWay, size: int) -> None:
    way.flip = ("up", b"needle", b"NEEDLE")
    with pytest.raises((UnavailableError, UnfitError)):
        put(store, b"." * (size - 6) + b"needle")
    way.heal()
    assert keys(store) == []


# ----------------------------------------------------------------------------------------------- what is unfit


@pytest.mark.parametrize("options", [{"keys": (ACCESS, "wrong")}, {"keys": ("wrong", SECRET)}, {"bucket": "none"}])
def test_what_only_people_can_mend_is_not_tried_again(region: Region, options: dict[str, Any]) -> None:
    store = region.store("s3-unfit", **options)
    for ask in (lambda: put(store), lambda: store.read("full/a/b"), lambda: list(store.list(""))):
        with pytest.raises(UnfitError) as caught:
            ask()
        assert caught.value.hint
        assert SECRET not in str(caught.value)


# --------------------------------------------------------------------------------------- what the server keeps


def test_the_storage_is_told_how_to_keep_an_object(region: Region) -> None:
    store = region.store(f"s3-{next(_numbers)}", storage_class="STANDARD_IA", encryption="AES256")
    put(store)
    found = region.admin().head_object(Bucket=BUCKET, Key=f"{store._root}full/a/b")
    assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
    assert store.matches("full/a/b", BytesIO(b"x"))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_what_is_locked_stays(region: Region, size: int) -> None:
    bucket = f"locked-{next(_numbers)}"
    region.make_bucket(bucket, ObjectLockEnabledForBucket=True)
    admin = region.admin()
    store = region.store(bucket=bucket, lock={"mode": "governance", "retain": "1h", "legal_hold": True})
    store._connect = lambda: admin
    before = datetime.now(UTC)
    put(store, bytes(size))
    found = admin.head_object(Bucket=bucket, Key="full/a/b")
    assert (found["ObjectLockMode"], found["ObjectLockLegalHoldStatus"]) == ("GOVERNANCE", "ON")
    assert found["ObjectLockRetainUntilDate"] > before + timedelta(minutes=59)
    with pytest.raises(admin.exceptions.ClientError):
        admin.delete_object(Bucket=bucket, Key="full/a/b", VersionId=found["VersionId"])
    store.delete("full/a/b")  # a marker over it: it is no object of the repository any more, and can be brought back
    with pytest.raises(RefusedError):
        store.read("full/a/b")


# ------------------------------------------------------------------------------------------------------- parts


@given(st.integers(1, 10_000))
def test_any_object_fits_into_what_s3_takes(number: int) -> None:
    assert 5 << 20 <= s3_upload.part_bytes(number) <= 5 << 30
    assert s3_upload.part_bytes(number) <= s3_upload.part_bytes(number + 1)


def test_ten_thousand_parts_hold_two_terabytes() -> None:
    assert sum(map(s3_upload.part_bytes, range(1, 10_001))) > 2 << 40


@given(st.lists(st.binary(max_size=30)), st.integers(1, 7))
def test_a_checksum_does_not_depend_on_the_chunks(chunks: list[bytes], size: int) -> None:
    whole = b"".join(chunks)
    again = [whole[start : start + size] for start in range(0, len(whole), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_upload, "_FIRST", 16)
        assert s3_upload.checksum(chunks) == s3_upload.checksum(again) == s3_upload.checksum([whole])


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)

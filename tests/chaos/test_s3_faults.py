"""A way to S3 on which things go wrong, a server that fails, a writer that is killed: no object is ever half."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.copies import keys, put
from tests.support.faulty import FaultyWay
from tests.support.s3 import ACCESS, BUCKET, SECRET, Region
from tests.support.source import ROOT

from pgbackup.domain.errors import UnavailableError, UnfitError
from pgbackup.store import S3Store, s3_upload

SMALL = 5 << 20
_numbers = itertools.count()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 MiB, the smallest that S3 takes."""
    monkeypatch.setattr(s3_upload, "_FIRST", SMALL)


@pytest.fixture
def store(region: Region, way: FaultyWay) -> S3Store:
    return region.store(f"faulty-{next(_numbers)}", endpoint=way.endpoint, timeout="2s")


def unfinished(region: Region, store: S3Store) -> list[Any]:
    found = region.admin().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [one for one in found if one["Key"].startswith(store._root)]


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
    put(store, "full/a/b", b"x")
    store.clean("full/a")
    assert (keys(store), unfinished(region, store)) == ([], [])


# ------------------------------------------------------------------------------------------- faults of the way


@pytest.mark.usefixtures("parts")
def test_a_cut_reading_goes_on_where_it_was_cut(store: S3Store, way: FaultyWay) -> None:
    data = os.urandom(2 * SMALL)
    put(store, "full/a/b", data)
    way.cut("down", after=3_000_000, times=3)
    assert store.read("full/a/b") == data
    assert not way.cuts


@pytest.mark.usefixtures("parts")
def test_a_cut_upload_is_tried_again(region: Region, store: S3Store, way: FaultyWay) -> None:
    data = os.urandom(3 * SMALL + 1)
    way.cut("up", after=SMALL // 2, times=2)
    put(store, "full/a/b", data)
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
    put(store, "full/a/b", b"x")
    assert store.read("full/a/b") == b"x"


@pytest.mark.parametrize("fault", ["refused", "nobody", "hangs", "500", "503"])
def test_a_region_that_is_down_says_so(region: Region, way: FaultyWay, store: S3Store, fault: str) -> None:
    put(store, "full/a/b", b"x")
    if fault == "nobody":
        with socket.create_server(("127.0.0.1", 0)) as free:
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        down = region.store("s3-down", endpoint=endpoint, timeout="0.3s")
    else:
        down = region.store("s3-down", endpoint=way.endpoint, timeout="0.3s")
        way.refusing, way.hanging = fault == "refused", fault == "hangs"
        way.answer, way.answers = (int(fault), 1000) if fault.isdigit() else (0, 0)
    for ask in (lambda: put(down, "full/a/b", b"x"), lambda: down.read("full/a/b"), lambda: list(down.list(""))):
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
        put(store, "full/a/b", b"." * (size - 6) + b"needle")
    way.heal()
    assert keys(store) == []


# ----------------------------------------------------------------------------------------------- what is unfit


@pytest.mark.parametrize("options", [{"keys": (ACCESS, "wrong")}, {"keys": ("wrong", SECRET)}, {"bucket": "none"}])
def test_what_only_people_can_mend_is_not_tried_again(region: Region, options: dict[str, Any]) -> None:
    store = region.store("s3-unfit", **options)
    for ask in (lambda: put(store, "full/a/b", b"x"), lambda: store.read("full/a/b"), lambda: list(store.list(""))):
        with pytest.raises(UnfitError) as caught:
            ask()
        assert caught.value.hint
        assert SECRET not in str(caught.value)


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)

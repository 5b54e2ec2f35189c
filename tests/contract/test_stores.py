"""What every repository promises, whatever holds its bytes. A new kind of store joins by one line in STORES."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.buckets import BUCKETS, Connect
from tests.support.source import ROOT

from pgbackup.copy import check_repository
from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.ports import Store
from pgbackup.store import FsspecStore, LocalStore

Make = Callable[[pytest.FixtureRequest, Path], Store]
STORES: dict[str, Make] = {
    "local": lambda _request, folder: LocalStore(folder / "repository"),
    "s3": lambda request, folder: request.getfixturevalue("region").store(prefix=f"{folder.name}-{next(_numbers)}"),
}
STORES |= dict.fromkeys(
    BUCKETS,
    lambda request, folder: FsspecStore(
        partial(request.getfixturevalue("bucket"), f"{folder.name}-{next(_numbers)}"), name="bucket"
    ),
)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def buckets() -> Iterator[Callable[[str], Connect]]:
    """Each kind of bucket, started when it is asked for."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(BUCKETS[kind]()))


@pytest.fixture
def bucket(request: pytest.FixtureRequest, buckets: Callable[[str], Connect]) -> Connect:
    return buckets(request.node.callspec.params["store"])


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](request, tmp_path)


def put(store: Store, key: str, data: bytes = b"x") -> None:
    with store.create(key) as sink:
        sink.write(data)


def keys(store: Store, prefix: str = "full/") -> list[str]:
    return [found.key for found in store.list(prefix)]


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_what_was_written_is_read(store: Store, size: int) -> None:
    data = os.urandom(size)
    with store.create("full/a/b") as sink:
        for start in range(0, size, 700_001):
            sink.write(memoryview(data)[start : start + 700_001])
    assert store.read("full/a/b") == data
    with store.open("full/a/b") as source:
        assert b"".join(iter(lambda: source.read(100_000), b"")) == data
    found = list(store.list("full/"))
    assert [(one.key, one.bytes) for one in found] == [("full/a/b", size)]
    assert found[0].modified.tzinfo is not None


def test_an_object_is_seen_when_it_is_whole(store: Store) -> None:
    with store.create("full/a/b") as sink:
        sink.write(b"x" * 2_000_000)
        assert keys(store) == []
        with pytest.raises(RefusedError):
            store.read("full/a/b")
    assert keys(store) == ["full/a/b"]


@pytest.mark.parametrize("error", [ValueError, UnavailableError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("size", [0, 10, 2_000_000])
def test_an_object_is_gone_when_its_writer_fails(store: Store, error: type[BaseException], size: int) -> None:
    def write() -> None:
        with store.create("full/a/b") as sink:
            sink.write(b"x" * size)
            raise error("on the way")

    with pytest.raises(error):
        write()
    assert keys(store) == []
    put(store, "full/a/b")
    assert keys(store) == ["full/a/b"]


def test_an_object_is_written_once(store: Store) -> None:
    put(store, "full/a/b", b"first")
    with pytest.raises(RefusedError):
        put(store, "full/a/b", b"second")
    assert store.read("full/a/b") == b"first"
    assert keys(store) == ["full/a/b"]


def test_of_those_who_write_at_once_one_wins(store: Store, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["store"] == "google":
        pytest.skip("fake-gcs-server does not look at ifGenerationMatch, which gcsfs sends")
    barrier = threading.Barrier(8)
    won: list[int] = []
    refused: list[int] = []

    def write(number: int) -> None:
        try:
            with store.create("full/a/b") as sink:
                sink.write(b"%d" % number * 100_000)
                barrier.wait(20)
            won.append(number)
        except RefusedError:
            refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    assert store.read("full/a/b") == b"%d" % won[0] * 100_000
    assert keys(store) == ["full/a/b"]


def orders(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    found = list(keys)
    return sorted(found), sorted(found, key=lambda key: key.split("/"))


def test_objects_are_listed_in_the_order_of_their_keys(store: Store) -> None:
    names = ["b", "a/z", "a/b/c", "a-b/c", "a.b", "a/b-c", "A", "a0", "c/d/e/f", "a/b.c", "_"]
    for name in names:
        put(store, f"full/{name}")
    assert keys(store) in orders(f"full/{name}" for name in names)
    assert keys(store, "full/a") in orders(f"full/{name}" for name in names if name.startswith("a"))
    assert keys(store, "full/a/b") in orders(["full/a/b-c", "full/a/b.c", "full/a/b/c"])
    assert keys(store, "full/none/") == []
    assert keys(store, "") == keys(store)


def test_a_listing_begins_behind_a_key(store: Store) -> None:
    names = ["wal/a/1/b", "wal/a/2/b", "wal/a/2/d", "wal/a/2/f.json", "wal/a/3/b", "wal/a-b/1", "wal/b"]
    for name in names:
        put(store, name)
    for after in (*names, "wal/a/2/c", "wal/a/2/f", "wal/a/2/g", "wal/a/0/x", "full/x", "x", ""):
        wanted = sorted(name for name in names if name.startswith("wal/a/") and name > after)
        assert [found.key for found in store.list("wal/a/", after=after)] == wanted, after


def test_an_empty_repository_lists_nothing(store: Store) -> None:
    assert keys(store) == []
    assert keys(store, "") == []


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a//b", ".", "..", "../a", "a/../b", "a/..", "a/./b", "a\0b", ".a", "a/.b"]
)
def test_a_key_never_leaves_the_repository(store: Store, key: str) -> None:
    with pytest.raises(ConfigurationError):
        put(store, key)
    with pytest.raises(ConfigurationError):
        store.read(key)
    with pytest.raises(ConfigurationError):
        store.delete(key)
    with pytest.raises(ConfigurationError):
        store.clean(key)


def test_a_missing_object_is_refused(store: Store) -> None:
    with pytest.raises(RefusedError, match="full/a/b"):
        store.read("full/a/b")
    with pytest.raises(RefusedError), store.open("full/a/b"):
        pass


def test_deleting_is_final_and_may_be_repeated(store: Store) -> None:
    put(store, "full/a/b")
    put(store, "full/a/c")
    store.delete("full/a/b")
    store.delete("full/a/b")
    store.delete("full/none/b")
    assert keys(store) == ["full/a/c"]


def test_cleaning_takes_everything_under_a_prefix_and_nothing_else(store: Store) -> None:
    for key in ("full/a/b", "full/a/c/d", "full/ab/c", "full/b/a", "wal/full/a/b"):
        put(store, key)
    store.clean("full/a")
    store.clean("full/a")
    assert keys(store, "") == ["full/ab/c", "full/b/a", "wal/full/a/b"]
    put(store, "full/a/b", b"again")
    assert store.read("full/a/b") == b"again"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_other_bytes_do_not_match(store: Store, size: int) -> None:
    data = os.urandom(size)
    put(store, "full/a/b", data)
    assert store.matches("full/a/b", BytesIO(data))
    assert not store.matches("full/a/b", BytesIO(data + b"x"))
    assert not size or not store.matches("full/a/b", BytesIO(data[:-1] + bytes([data[-1] ^ 1])))
    with pytest.raises(RefusedError):
        store.matches("full/a/none", BytesIO(data))


def test_a_repository_is_tried_and_left_as_it_was(store: Store) -> None:
    assert all(finding.ok for finding in check_repository(store))
    assert keys(store, "") == []


def test_the_space_left_is_told(store: Store) -> None:
    free = store.free_bytes()
    assert free is None or free > 0


def test_names_are_bytes_to_a_store(store: Store) -> None:
    for name in ("a b", "%2E%2E", "é", "a'b", "$(x)", "-rf", "x" * 200):
        put(store, f"full/n/{name}", name.encode())
        assert store.read(f"full/n/{name}") == name.encode()


# ------------------------------------------------------------------------------------------------ the local one


def test_only_the_owner_sees_a_local_repository(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        put(LocalStore(tmp_path / "repository"), "full/a/b")
    finally:
        os.umask(old)
    for path in [tmp_path / "repository", *(tmp_path / "repository").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_what_a_killed_writer_left_is_no_object_and_is_cleaned(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pgbackup.store import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).create('full/a/b') as sink:\n"
        "    sink.write(b'x' * 100000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    store = LocalStore(tmp_path)
    assert [path.is_file() for path in (tmp_path / "full/a").iterdir()] == [True]
    assert keys(store) == []
    put(store, "full/a/b")
    store.clean("full/a")
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.parametrize("size", [100, 5_000, 50_000, 5_000_000])
def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    """A limit on file size, in a process of its own: what a write meets is what a full disk gives."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from pgbackup.store import LocalStore\n"
        "from pgbackup.domain.errors import UnavailableError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "try:\n"
        "    with LocalStore(Path(sys.argv[1])).create('full/a/b') as sink: sink.write(b'x' * int(sys.argv[2]))\n"
        "except UnavailableError as error: print(error.message, '|', error.hint)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    argv = [sys.executable, "-c", script, str(tmp_path), str(size)]
    done = subprocess.run(argv, env=environment, capture_output=True, check=False)
    assert done.stdout.decode().startswith(f"no space left for {tmp_path}/full/a/b | free space"), done.stderr.decode()
    assert list((tmp_path / "full/a").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, UnavailableError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)),
        *((number, UnfitError) for number in (errno.EACCES, errno.EROFS)),
    ],
)
def test_each_fault_of_the_disk_is_of_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[PgBackupError]
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    put(LocalStore(tmp_path), "full/a/first")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind) as caught:
        put(LocalStore(tmp_path), "full/a/b")
    assert caught.value.hint
    assert [path.name for path in (tmp_path / "full/a").iterdir()] == ["first"]


@given(st.text(max_size=60))
def test_no_key_at_all_reaches_outside(key: str) -> None:
    store = LocalStore(Path("/repository"))
    try:
        path = store._path(key)
    except ConfigurationError:
        return
    assert Path(os.path.normpath(path)).is_relative_to("/repository")
    assert path != Path("/repository")

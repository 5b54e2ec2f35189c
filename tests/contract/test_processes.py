"""Pipelines of programs: every way that a stage can end is seen, nothing outlives them, no secret leaks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.source import ROOT

from pgbackup.domain.errors import PgBackupError, ProgramFailed, UnavailableError, UnfitError
from pgbackup.domain.model import SECRET_FD, Command
from pgbackup.stream import Processes

MEGABYTE = 1 << 20
CAT = Command(("cat",))
PLENTY = Command(("head", "-c", str(20 * MEGABYTE), "/dev/zero"))


class Sink:
    """Keeps what it is given, or raises after some of it."""

    def __init__(self, error: Exception | None = None, after: int = 0) -> None:
        self.data = bytearray()
        self._error = error
        self._after = after

    def write(self, data: bytes | memoryview) -> None:
        if self._error and len(self.data) >= self._after:
            raise self._error
        self.data += data


class Source:
    """Gives some bytes in pieces, then ends or raises."""

    def __init__(self, size: int, error: Exception | None = None) -> None:
        self._left = size
        self._error = error

    def read(self, size: int = -1, /) -> bytes:
        if not self._left and self._error:
            raise self._error
        count = min(size, self._left) if size >= 0 else self._left
        self._left -= count
        return b"x" * count


class Bytes:
    """Gives some bytes; has no file descriptor."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1, /) -> bytes:
        piece, self._data = (self._data, b"") if size < 0 else (self._data[:size], self._data[size:])
        return piece


def shell(script: str) -> Command:
    return Command(("sh", "-c", script))


@pytest.fixture
def runner() -> Iterator[Processes]:
    """A runner that has no program left when the test ends."""
    processes = Processes()
    yield processes
    assert not processes._live
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if "cat" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]


# ------------------------------------------------------------------------------------------------------ what goes well


def test_a_program_is_run_with_input_to_its_end(runner: Processes) -> None:
    assert runner.run(shell("cat; echo note >&2"), feed=b"x" * 5 * MEGABYTE) == (b"x" * 5 * MEGABYTE, "note")


@pytest.mark.parametrize("filters", [0, 1, 3])
@pytest.mark.parametrize("size", [0, 1, MEGABYTE, 3 * MEGABYTE + 7])
def test_both_ends_of_a_pipeline_are_measured(runner: Processes, filters: int, size: int) -> None:
    data = os.urandom(size)
    sink = Sink()
    seen: list[int] = []
    doubled = shell("cat; printf end")
    through = [CAT] * (filters - 1) + [doubled] if filters else []

    piped = runner.pipe(Bytes(data), through=through, sink=sink, progress=seen.append)
    expected = data + (b"end" if filters else b"")
    assert bytes(sink.data) == expected
    assert (piped.source.bytes, piped.source.sha256) == (size, sha256(data).hexdigest())
    assert (piped.sink.bytes, piped.sink.sha256) == (len(expected), sha256(expected).hexdigest())
    assert seen == sorted(seen)
    assert not size or seen[-1] == size


def test_a_program_may_be_the_source(runner: Processes) -> None:
    sink = Sink()
    assert runner.pipe(PLENTY, through=[CAT], sink=sink).source.bytes == len(sink.data) == 20 * MEGABYTE


# --------------------------------------------------------------------------------------------------- who is at fault

ENDINGS = {
    "fails at once": ("echo broken >&2; exit 3", 3),
    "fails at its end": ("cat; echo broken >&2; exit 4", 4),
    "fails in the middle": ("head -c 3000000; echo broken >&2; exit 5", 5),
    "is killed": ("head -c 3000000; echo broken >&2; kill -KILL $$", -signal.SIGKILL),
    "crashes": ("head -c 3000000; echo broken >&2; kill -SEGV $$", -signal.SIGSEGV),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_filter_that_fails_is_named_wherever_it_stands(runner: Processes, ending: str, place: int) -> None:
    script, status = ENDINGS[ending]
    through = [CAT, CAT, CAT]
    through[place] = shell(script)
    with pytest.raises(ProgramFailed) as caught:
        runner.pipe(PLENTY, through=through, sink=Sink())
    assert (caught.value.program, caught.value.status, caught.value.stderr) == ("sh", status, "broken")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("filters", [0, 2])
def test_a_source_that_fails_is_named(runner: Processes, ending: str, filters: int) -> None:
    script, status = ENDINGS[ending]
    with pytest.raises(ProgramFailed) as caught:
        runner.pipe(
            shell(f"exec < /dev/zero; cat() {{ head -c 9000000; }}; {script}"), through=[CAT] * filters, sink=Sink()
        )
    assert (caught.value.program, caught.value.status, caught.value.stderr) == ("sh", status, "broken")


@pytest.mark.parametrize("place", [0, 1])
def test_a_filter_that_stops_reading_is_no_success(runner: Processes, place: int) -> None:
    """Exit status 0, and not all of the data."""
    through = [CAT, CAT]
    through[place] = shell("head -c 10; exit 0")
    with pytest.raises(UnavailableError):
        runner.pipe(PLENTY, through=through, sink=Sink())


@pytest.mark.parametrize("filters", [0, 2])
def test_what_the_source_raises_is_raised(runner: Processes, filters: int) -> None:
    with pytest.raises(PgBackupError, match="the network is gone"):
        runner.pipe(Source(3 * MEGABYTE, UnavailableError("the network is gone")), through=[CAT] * filters, sink=Sink())


@pytest.mark.parametrize("filters", [0, 1, 3])
@pytest.mark.parametrize("after", [0, 5 * MEGABYTE])
def test_what_the_sink_raises_is_raised(runner: Processes, filters: int, after: int) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        runner.pipe(shell("cat /dev/zero"), through=[CAT] * filters, sink=Sink(full, after))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgbackup.stream.process._GRACE", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("first", ["", "printf x; "], ids=["silent", "after a word"])
def test_a_filter_that_fails_ends_a_source_that_waits(runner: Processes, first: str) -> None:
    """As when gpg dies while pg_dump waits for a lock."""
    with pytest.raises(ProgramFailed) as caught:
        runner.pipe(shell(f"{first}exec sleep 1000"), through=[CAT, shell("exit 3")], sink=Sink())
    assert (caught.value.program, caught.value.status) == ("sh", 3)


@pytest.mark.usefixtures("impatient")
def test_a_filter_that_stops_reading_ends_a_source_that_waits(runner: Processes) -> None:
    with pytest.raises(UnavailableError):
        runner.pipe(shell("exec sleep 1000"), through=[shell("exit 0")], sink=Sink())


def test_other_statuses_may_be_expected(runner: Processes) -> None:
    assert runner.run(shell("echo x; exit 2"), ok=frozenset({0, 2})) == (b"x\n", "")
    with pytest.raises(ProgramFailed):
        runner.run(shell("exit 1"), ok=frozenset({0, 2}))


def test_a_missing_program_is_named(runner: Processes) -> None:
    with pytest.raises(UnfitError, match="no-such-program is not installed"):
        runner.pipe(Source(1), through=[CAT, Command(("/bin/no-such-program",))], sink=Sink())


# ------------------------------------------------------------------------------------------------------------ secrets

SPY = "tr '\\0' '\\n' < /proc/self/cmdline; tr '\\0' '\\n' < /proc/self/environ; cat /proc/$PPID/cmdline"


def test_a_secret_reaches_its_program_and_nobody_else(runner: Processes) -> None:
    secret = b"correct horse battery staple"
    command = Command(("sh", "-c", f"{SPY}; cat /dev/fd/$0", SECRET_FD), {"LANG": "C"}, secret)
    output, _ = runner.run(command)
    assert output.endswith(secret)
    assert output.count(secret) == 1
    assert secret.decode() not in repr(command)


def test_neighbours_do_not_inherit_a_secret(runner: Processes) -> None:
    sink = Sink()
    spy = shell("ls -l /proc/self/fd | grep -c pipe || true")
    with_secret = Command(("sh", "-c", "cat; cat /dev/fd/$0 >/dev/null", SECRET_FD), {}, b"secret")
    runner.pipe(Source(10), through=[with_secret, shell("cat >/dev/null"), spy], sink=sink)
    assert int(sink.data) == 3  # its input, its output, its standard error


def test_nothing_of_our_environment_leaks(runner: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "key")
    output, _ = runner.run(Command(("env",), {"MINE": "1"}))
    names = {line.split("=")[0] for line in output.decode().splitlines()}
    assert names <= {"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LC_ALL", "TZ", "PWD", "MINE"}


def test_what_a_program_complains_about_is_redacted() -> None:
    runner = Processes(secrets=["hunter2"])
    with pytest.raises(ProgramFailed) as caught:
        runner.run(shell("echo 'FATAL: hunter2 is wrong; password=other postgresql://a:b@c/d' >&2; exit 1"))
    for secret in ("hunter2", "other", ":b@"):
        assert secret not in str(caught.value)
        assert secret not in caught.value.stderr


def test_a_flood_of_complaints_neither_blocks_nor_fills_memory(runner: Processes) -> None:
    with pytest.raises(ProgramFailed) as caught:
        runner.run(shell("yes complaint | head -c 2000000 >&2; echo the end >&2; exit 1"))
    assert len(caught.value.stderr) < 100_000
    assert caught.value.stderr.endswith("the end")


# ------------------------------------------------------------------------------------------------------ ending early


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def eventually_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("manners", ["", "trap '' TERM; ", "trap 'exit 1' TERM; "], ids=["none", "stubborn", "polite"])
def test_terminate_ends_a_pipeline_that_hangs(manners: str) -> None:
    """What a program says to that is no answer: pg_restore calls it an error of its own and exits with status 1."""
    runner = Processes()
    started = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            source = shell(f"{manners}printf x; while :; do sleep 0.1; done")
            runner.pipe(source, through=[CAT], sink=Sink(), progress=lambda _count: started.set())
        except PgBackupError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
    runner.terminate()
    runner.terminate()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [UnavailableError]
    assert not runner._live
    with pytest.raises(UnavailableError):
        runner.run(CAT)


def test_a_whole_family_of_programs_is_ended(tmp_path: Path) -> None:
    runner = Processes()
    note = tmp_path / "pid"
    process = runner.spawn(shell(f"sleep 1000 & echo $! > {note}.tmp; mv {note}.tmp {note}; wait"))
    wait_for(note)
    runner.terminate()
    assert process.stop(signal.SIGTERM, 5) != 0
    assert eventually_gone(int(note.read_text()))


def test_a_spawned_program_that_does_not_obey_is_killed(tmp_path: Path) -> None:
    process = Processes().spawn(shell(f"trap '' INT TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"))
    wait_for(tmp_path / "ready")
    assert process.poll() is None
    assert process.stop(signal.SIGINT, 0.2) == -signal.SIGKILL


ORPHANS = """
import os, signal, sys, threading
from pgbackup.domain.model import Command
from pgbackup.stream import Processes

class Sink:
    def write(self, data): pass

runner = Processes()
daemon = runner.spawn(Command(("sleep", "1000")))
source = Command(("sh", "-c", "while :; do printf x; sleep 0.01; done"))
def die(_count):
    pids = [child.pid for child in runner._live]
    print(*pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
runner.pipe(source, through=[Command(("cat",))], sink=Sink(), progress=die)
"""


def test_programs_die_with_a_killed_process() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    done = subprocess.run([sys.executable, "-c", ORPHANS], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3
    assert all(eventually_gone(pid) for pid in pids)


# ------------------------------------------------------------------------------------------------------------- memory

MEMORY = """
import resource
from pgbackup.domain.model import Command
from pgbackup.stream import Processes

class Sink:
    def write(self, data): pass

runner = Processes()
def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
runner.pipe(Command(("head", "-c", "3000000", "/dev/zero")), through=[Command(("cat",))], sink=Sink())
before = rss()
piped = runner.pipe(Command(("head", "-c", "300000000", "/dev/zero")), through=[Command(("cat",))], sink=Sink())
print(piped.sink.bytes, rss() - before)
"""


def test_memory_does_not_grow_with_the_data() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    done = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, check=True)
    size, kilobytes = map(int, done.stdout.split())
    assert size == 300_000_000
    assert kilobytes < 10_000

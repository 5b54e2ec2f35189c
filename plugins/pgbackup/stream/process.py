"""Run programs: one door, clean environments, own sessions, every exit status checked.

A child dies with this process even when this process is killed (``setpriv --pdeathsig``), and ``terminate`` ends
all of them, whatever thread started them.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import IO

from pgbackup.domain.errors import ProgramFailed, UnavailableError, UnfitError
from pgbackup.domain.model import SECRET_FD, UNLESS_ORPHANED, Command, Measured, Piped
from pgbackup.domain.ports import Readable, Writable
from pgbackup.domain.settings import Load
from pgbackup.stream.redact import redact

log = logging.getLogger(__name__)

CHUNK = 1 << 20
_STDERR_LINES = 400
_GRACE = 5.0
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PGSERVICEFILE")


class Processes:
    """The Runner of production."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)
        self._live: set[Child] = set()
        self._lock = threading.RLock()  # a signal handler may terminate() while its own thread holds it
        self._setpriv = shutil.which("setpriv")
        self._ended = threading.Event()
        self.priority: tuple[str, ...] = ()

    def lowered(self, load: Load) -> Processes:
        """Share everything but the priority; see ports.Runner."""
        other = copy.copy(self)
        other.priority = _priority(load)
        return other

    def run(self, command: Command, *, feed: bytes = b"", ok: frozenset[int] = frozenset({0})) -> tuple[bytes, str]:
        """Run to the end; see ports.Runner."""
        child = self._start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            feeder = threading.Thread(target=_feed, args=(child.stdin, feed), daemon=True)
            feeder.start()
            output = child.stdout.read()
            status = child.wait()
            feeder.join()
        finally:
            self._end([child])
        if status not in ok:
            raise child.failure()
        return output, child.stderr()

    def spawn(self, command: Command) -> Child:
        """Start a program that runs on; see ports.Runner."""
        return self._start(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def pipe(
        self,
        source: Command | Readable,
        *,
        through: Sequence[Command] = (),
        sink: Writable,
        progress: Callable[[int], None] | None = None,
    ) -> Piped:
        """Stream through filters; see ports.Runner."""
        children: list[Child] = []
        feeder: _Pump | None = None
        try:
            entry: Readable | IO[bytes] = source if not isinstance(source, Command) else self._first(source, children)
            outlet = entry
            if through:
                inlet, outlet = self._filters(through, children)
                feeder = _Pump(entry, _Closing(inlet), progress)
                feeder.start()
            last = _Pump(outlet, sink, None if feeder else progress)
            last.pump()
            if feeder:
                self._check_fed(feeder, children[-len(through) :])
            self._check(children)
            return Piped(source=(feeder or last).measured(), sink=last.measured())
        finally:
            for child in children:
                child.signal(signal.SIGKILL)
            if feeder:
                feeder.join(_GRACE)
            self._end(children)

    def terminate(self) -> None:
        """End every live program, politely first, and start none any more."""
        with self._lock:
            self._ended.set()
            live = list(self._live)
        for child in live:
            child.told_to_stop = True
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while any(child.poll() is None for child in live) and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in live:
            child.signal(signal.SIGKILL)

    def _first(self, command: Command, children: list[Child]) -> IO[bytes]:
        child = self._start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        children.append(child)
        return child.stdout

    def _filters(self, through: Sequence[Command], children: list[Child]) -> tuple[IO[bytes], IO[bytes]]:
        """Start the filters, each reading its predecessor; return the first's input and the last's output."""
        inlet: IO[bytes] | None = None
        previous: IO[bytes] | int = subprocess.PIPE
        for command in through:
            child = self._start(command, stdin=previous, stdout=subprocess.PIPE)
            children.append(child)
            inlet = inlet or child.stdin
            if not isinstance(previous, int):
                previous.close()  # only the child holds it now, so that it sees the end of it
            previous = child.stdout
        assert inlet is not None  # noqa: S101 - `through` is not empty
        return inlet, children[-1].stdout

    def _start(self, command: Command, *, stdin: IO[bytes] | int, stdout: int) -> Child:
        if shutil.which(command.argv[0]) is None:
            raise UnfitError(
                f"{command.name} is not installed",
                detail=command.argv[0],
                hint="`pgbackup doctor` lists what is missing",
            )
        if self._ended.is_set():
            raise UnavailableError(f"{command.name} is not started: the run was told to stop")
        argv = [*self.priority, *command.argv]
        secret_fd: int | None = None
        if command.secret is not None:
            secret_fd = _secret_pipe(command.secret)
            argv = [str(secret_fd) if argument == SECRET_FD else argument for argument in argv]
        if self._setpriv:
            argv = [self._setpriv, "--pdeathsig", "TERM", "--", *UNLESS_ORPHANED, str(os.getpid()), *argv]
        try:
            popen = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=_environment(command.env),
                pass_fds=() if secret_fd is None else (secret_fd,),
                start_new_session=True,
            )
        finally:
            if secret_fd is not None:
                os.close(secret_fd)
        child = Child(command.name, popen, self._secrets)
        child.on_end = self._forget
        self._remember(child)
        return child

    def _remember(self, child: Child) -> None:
        with self._lock:
            self._live.add(child)
            child.told_to_stop = self._ended.is_set()
        if child.told_to_stop:  # since it was started
            child.signal(signal.SIGKILL)

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._live.discard(child)

    @staticmethod
    def _end(children: Iterable[Child]) -> None:
        for child in children:
            child.close()

    @staticmethod
    def _check_fed(feeder: _Pump, filters: Sequence[Child]) -> None:
        """Raise when the filters did not take all of the data: their output ended, and the source may still wait."""
        all_taken = feeder.finished.wait(_GRACE) and feeder.error is None
        if feeder.error and not isinstance(feeder.error, BrokenPipeError):
            raise feeder.error
        if all_taken:
            return
        ended = [child for child in filters if child.ended(_GRACE)]
        for child in reversed(ended):  # the last one that failed; those before it died of its death
            if child.wait() not in {0, -signal.SIGPIPE}:
                raise child.failure()
        raise UnavailableError(f"{(ended or filters)[-1].name} stopped reading before the end")

    @staticmethod
    def _check(children: Sequence[Child]) -> None:
        """Raise for the first program at fault, not for those that died of its death."""
        failed = [child for child in children if child.wait() != 0]
        at_fault = [child for child in failed if child.wait() != -signal.SIGPIPE]
        if failed:
            raise (at_fault or failed)[0].failure()


class Child:
    """A running program: its streams, its exit status, the redacted end of its standard error."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], secrets: tuple[str, ...]) -> None:
        self.name = name
        self.on_end: Callable[[Child], None] = lambda _child: None
        self.told_to_stop = False
        self._popen = popen
        self._secrets = secrets
        self._lines: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        """The operating system's number of it."""
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        """Its standard input."""
        assert self._popen.stdin is not None  # noqa: S101 - asked for by the caller
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output."""
        assert self._popen.stdout is not None  # noqa: S101 - asked for by the caller
        return self._popen.stdout

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._popen.poll()

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        status = self._popen.wait()
        self._drain.join(_GRACE)
        self.on_end(self)
        return status

    def ended(self, within: float) -> bool:
        """Wait a while; tell whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(within)
        return self._popen.poll() is not None

    def signal(self, number: int) -> None:
        """Signal the program's whole session, if it still runs."""
        if self._popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)

    def stop(self, signal: int, timeout: float) -> int:
        """Signal the program itself, wait, kill when it does not obey; return the exit status."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self.close()
        return self._popen.returncode

    def close(self) -> None:
        """Make sure that it has ended and that its streams are closed."""
        self.signal(signal.SIGKILL)
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.wait()
        if self._popen.stderr is not None:
            self._popen.stderr.close()

    def stderr(self) -> str:
        """Return the redacted end of its standard error."""
        return "\n".join(self._lines)

    def failure(self) -> UnavailableError:
        """Return the error that tells how it ended. How it did when it was told to stop says nothing."""
        if self.told_to_stop:
            return UnavailableError(f"{self.name} was ended: the run was told to stop")
        return ProgramFailed(self.name, self.wait(), self.stderr())

    def _read_stderr(self) -> None:
        assert self._popen.stderr is not None  # noqa: S101 - always a pipe
        with contextlib.suppress(ValueError, OSError):  # closed under us at the end
            for raw in self._popen.stderr:
                line = redact(raw.decode(errors="replace").rstrip("\n"), self._secrets)
                self._lines.append(line)
                log.debug("%s: %s", self.name, line)


class _Pump(threading.Thread):
    """Moves bytes, counts and hashes them in passing."""

    def __init__(self, source: Readable | IO[bytes], sink: Writable, progress: Callable[[int], None] | None) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self.finished = threading.Event()
        self._source = source
        self._sink = sink
        self._progress = progress
        self._bytes = 0
        self._digest = sha256(usedforsecurity=False)

    def run(self) -> None:
        """Pump in a thread of its own; the error is looked at by the caller."""
        try:
            self.pump()
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
            self.error = error
        finally:
            self.finished.set()
            if isinstance(self._sink, _Closing):
                try:
                    self._sink.close()
                except OSError as error:
                    self.error = self.error or error

    def pump(self) -> None:
        """Move everything; raises what the source or the sink raises."""
        for chunk in _chunks(self._source):
            self._digest.update(chunk)
            self._sink.write(chunk)
            self._bytes += len(chunk)
            if self._progress:
                self._progress(self._bytes)

    def measured(self) -> Measured:
        """Return what passed."""
        return Measured(self._bytes, self._digest.hexdigest())


class _Closing:
    """A program's input: closing it is the end of the data."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it, unbuffered."""
        fd = self._stream.fileno()
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def close(self) -> None:
        """Signal the end of the data."""
        self._stream.close()


def _priority(load: Load) -> tuple[str, ...]:
    """Return what a program is started through; best-effort without a level would be what every program has."""
    nice = ("nice", "-n", str(load.nice)) if load.nice else ()
    ionice = {None: (), "best-effort": ("ionice", "-c", "2", "-n", "7"), "idle": ("ionice", "-c", "3")}
    return (*nice, *ionice[load.ionice])


def _chunks(source: Readable | IO[bytes]) -> Iterator[bytes | memoryview]:
    """Read a file descriptor into one reused buffer where there is one; else whatever read() gives."""
    try:
        fd = source.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError):
        while chunk := source.read(CHUNK):
            yield chunk
        return
    with contextlib.suppress(OSError):  # not a pipe
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CHUNK)
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while count := os.readv(fd, [buffer]):
        yield view[:count]


def _feed(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ValueError), stream:
        stream.write(data)


def _secret_pipe(secret: bytes) -> int:
    """Return a readable file descriptor that holds the secret and then ends."""
    reading, writing = os.pipe()
    try:
        os.write(writing, secret)
    finally:
        os.close(writing)
    return reading


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Build a child's environment: nothing of ours leaks in (a stray PGHOST, a secret), messages in English."""
    base = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**base, "LC_ALL": "C", "TZ": "UTC", **extra}

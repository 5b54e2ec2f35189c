"""Processes as Linux shows them in /proc: who is who, who descends from whom."""

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; raises OSError when there is no such process."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


@dataclass(frozen=True)
class Process:
    """A process, told apart by its start time from a later one with the same id."""

    pid: int
    started: int

    @classmethod
    def current(cls) -> "Process":
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process with id ``pid`` now; raises OSError when there is none."""
        return cls(pid, int(_stat(pid)[19]))

    @classmethod
    def read(cls, path: Path) -> "Process | None":
        """The process named by a pid file, if the file is there and whole."""
        try:
            pid, started, boot = path.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return cls(int(pid), int(started)) if boot == boot_id() else None

    def write(self, path: Path) -> None:
        """Write a pid file: the pid on the first line, then what makes it unmistakable."""
        path.write_text(f"{self.pid}\n{self.started} {boot_id()}\n")

    @property
    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        try:
            fields = _stat(self.pid)
        except OSError:
            return False
        return int(fields[19]) == self.started and fields[0] not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def boot_id() -> str:
    """Differs from one boot of the machine to the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def descendants(pid: int) -> list[Process]:
    """Every living process below ``pid``, children first, whatever its session or process group."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = _stat(int(entry.name))
                if fields[0] not in "ZX":
                    children.setdefault(int(fields[1]), []).append(Process(int(entry.name), int(fields[19])))
    found = list(children.get(pid, []))
    for process in found:  # grows while it is read: breadth first
        found += children.get(process.pid, [])
    return found


def end_descendants(pid: int, *, patience: float) -> None:
    """Wait up to ``patience`` seconds until nothing lives below ``pid``, then kill what does."""
    until = time.monotonic() + patience
    while left := descendants(pid):
        if time.monotonic() > until:
            for process in left:
                process.send(signal.SIGKILL)
        reap()
        time.sleep(0.05)
    reap()


def reap() -> list[tuple[int, int]]:
    """Take note of every child that has ended: its pid and its exit status, negative for a signal."""
    ended = []
    with suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((child[0], os.waitstatus_to_exitcode(child[1])))
    return ended


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none can be lost."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def dying_with_parent(argv: Sequence[str], number: str = "TERM") -> list[str]:
    """``argv`` so that the program gets the signal ``number`` when the process that starts it dies."""
    return ["setpriv", "--pdeathsig", number, *argv]


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Get ``number`` when the parent process ``parent`` dies, even if it has died already."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")

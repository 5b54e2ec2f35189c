"""Processes as /proc shows them: those of one stack are known by its HOME, which all of them inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    argv: tuple[str, ...]
    environment: bytes

    @property
    def name(self) -> str:
        return Path(self.argv[0]).name if self.argv else ""


def living(home: Path) -> list[Process]:
    """Every process that has this HOME, or works in it: a title of its own costs it its environment. No zombies."""
    mark = f"HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if mark in environment.split(b"\0") or (folder / "cwd").readlink() == home:
                argv = tuple((folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                if stat[0] not in "ZX":
                    found.append(Process(int(folder.name), int(stat[1]), argv, environment))
    return found


def programs(home: Path, *names: str) -> list[Process]:
    """The programs of those names that work for the engine."""
    return [process for process in living(home) if process.name in names]


def end(pid: int) -> None:
    """Kill a process without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class ArgvWatch:
    """Reads every command line of the machine many times a second, and remembers which of the secrets it saw there."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.seen: set[tuple[str, str]] = set()
        """(name of the secret, name of the program)."""
        self.names: set[str] = set()
        """Programs that were looked at."""
        self._secrets = {name: secret.encode() for name, secret in secrets.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self._look(path.read_bytes())

    def _look(self, line: bytes) -> None:
        program = line.split(b"\0", 1)[0].rsplit(b"/", 1)[-1].decode(errors="replace")
        self.names.update(word.rsplit(b"/", 1)[-1].decode(errors="replace") for word in line.split(b"\0")[:6])
        self.seen.update((name, program) for name, secret in self._secrets.items() if secret in line)

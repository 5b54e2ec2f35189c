"""What a capture may take of the machines: its programs are as low as the configuration says, no other's are."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.source import Source

from pgbackup.capture import capture_night
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Site
from pgbackup.stream import Processes
from pgbackup.stream.process import Child


class Watching(Processes):
    """Looks at every program that it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.nice: dict[str, set[int]] = {}
        self.classes: dict[str, str] = {}
        self.arguments: dict[str, list[str]] = {}

    def _start(self, command: Command, *, stdin: Any, stdout: Any) -> Child:
        child = super()._start(command, stdin=stdin, stdout=stdout)
        process = Path(f"/proc/{child.pid}")
        while (process / "comm").read_text().strip() != Path(command.argv[0]).name[:15]:  # its launchers come first
            time.sleep(0.001)
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        self.nice.setdefault(command.name, set()).add(int(fields[16]))
        self.arguments[command.name] = (process / "cmdline").read_text().split("\0")
        if command.name == "pg_receivewal":  # which runs on
            done = subprocess.run(["ionice", "-p", str(child.pid)], capture_output=True, text=True, check=True)
            self.classes[command.name] = done.stdout.strip()
        return child


def watched(site: Site) -> tuple[Site, Watching]:
    runner = Watching()
    return dataclasses.replace(site, runner=runner), runner


@pytest.mark.parametrize(
    ("ionice", "expected"), [("idle", "idle"), ("best-effort", "best-effort: prio 7")], ids=["idle", "best-effort"]
)
def test_a_capture_is_as_low_as_configured(
    library: Source, site_for: Callable[..., Site], ionice: str, expected: str
) -> None:
    library.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
    load = {"nice": 7, "ionice": ionice, "max_rate": "50M"}
    site, runner = watched(site_for(library, load=load))
    capture_night(site, "streamflix")
    assert {"pg_dump", "pg_dumpall", "pg_basebackup", "pg_receivewal", "pg_waldump", "gpg", "tar"} <= runner.nice.keys()
    assert {value for values in runner.nice.values() for value in values} == {os.nice(0) + 7}
    assert runner.classes == {"pg_receivewal": expected}
    assert "--max-rate=50M" in runner.arguments["pg_basebackup"]
    runner.run(Command(("true",)))
    assert runner.nice["true"] == {os.nice(0)}


def test_by_default_nothing_is_lowered(library: Source, site_for: Callable[..., Site]) -> None:
    library.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
    site, runner = watched(site_for(library))
    capture_night(site, "streamflix")
    assert {value for values in runner.nice.values() for value in values} == {os.nice(0)}
    assert not any(word.startswith("--max-rate") for word in runner.arguments["pg_basebackup"])


def test_what_is_told_to_stop_ends_the_lowered_programs_too(library: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(library)
    lowered = site.runner.lowered(site.settings.cluster("streamflix").load)
    process = lowered.spawn(Command(("sleep", "600")))
    site.runner.terminate()
    ended = process.poll()
    process.stop(signal.SIGKILL, 5)
    assert ended == -signal.SIGTERM

"""Production's own server, as this machine controls it: asked, stopped, started, by what the configuration says."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import ConfigurationError, ProgramFailed, UnavailableError
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Control
from pgbackup.postgres.connection import Connection, connect
from pgbackup.postgres.programs import find_programs
from pgbackup.postgres.throwaway import living_on, owned_by

log = logging.getLogger(__name__)

_STOP = 300.0
_START = 120.0
_PAUSE = 0.1
_LOG = "pgbackup_start.log"


def controlled(site: Site, cluster: str) -> Control:
    """Return how a cluster is stopped and started; raises ConfigurationError when that is not configured."""
    control = site.settings.cluster(cluster).control
    if control is None:
        raise ConfigurationError(
            f"how {cluster} is stopped and started is not configured", hint=f"see clusters.{cluster}.control"
        )
    return control


def works_in(data: Path) -> bool:
    """Tell whether a server's processes work in a directory, in whatever container of this machine, by whatever name.

    What is read from postmaster.pid may be a number of another machine or container, or of another program by now.
    """
    if not data.exists():
        return False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text() == "postgres\n" and (process / "cwd").samefile(data):
                return True
    return False


@dataclass(frozen=True)
class Production:
    """The server of a cluster; ``data`` is its data directory, or what is to become it."""

    site: Site
    cluster: str
    data: Path
    major: int

    def connect(self) -> Connection:
        """Connect as the one who recovers."""
        return connect(self.site.recovery_connections(self.cluster))

    def answers(self) -> bool:
        """Tell whether the server answers; raises UnfitError when it does not let us in."""
        try:
            self.connect().close()
        except UnavailableError:
            return False
        return True

    def lives(self) -> bool:
        """Tell whether there is a server, answering or not."""
        return works_in(self.data) or self.answers()

    def stop(self) -> None:
        """Stop it and see that it is gone; a stop command that fails on one that is gone already is all right."""
        ours = controlled(self.site, self.cluster).stop is None
        try:
            if not ours or works_in(self.data):
                self.site.runner.run(self.command_to_stop)
        except ProgramFailed as error:
            if self.lives():
                raise
            log.warning("%s does not run, and its stop command says: %s", self.cluster, error)
        deadline = time.monotonic() + _STOP
        while self.lives():
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self.cluster} still runs after it was stopped",
                    detail=shlex.join(self.command_to_stop.argv),
                    hint=f"see clusters.{self.cluster}.control.stop; does something start it again?",
                )
            time.sleep(_PAUSE)

    def start(self) -> None:
        """Start it, unless it is there, and wait for its first answer; raises UnavailableError when none comes."""
        command = self.command_to_start
        try:
            if not works_in(self.data):
                self.site.runner.run(command)
        except ProgramFailed as error:
            raise UnavailableError(
                f"{self.cluster} does not start", detail=self._told() or error.detail, hint=shlex.join(command.argv)
            ) from None
        deadline = time.monotonic() + _START
        while not self.answers():
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self.cluster} was started and does not answer",
                    detail=self._told() or shlex.join(command.argv),
                    hint="look at its log",
                )
            time.sleep(_PAUSE)

    @property
    def command_to_stop(self) -> Command:
        """What stops the server."""
        control = controlled(self.site, self.cluster)
        if control.stop is not None:
            return Command(control.stop)
        return self._pg_ctl("stop", "--mode=fast", "--wait", f"--timeout={_STOP:.0f}")

    @property
    def command_to_start(self) -> Command:
        """What starts the server; by pg_ctl with the options that it was started with before, as far as is known."""
        control = controlled(self.site, self.cluster)
        if control.start is not None:
            return Command(control.start)
        known = (self.data / "postmaster.opts").exists()
        return self._pg_ctl("restart" if known else "start", "--wait", f"--log={self.data / _LOG}")

    def _pg_ctl(self, *arguments: str) -> Command:
        programs = find_programs(self.site.settings.paths.postgres_bin, major=self.major)
        words = (*arguments, f"--pgdata={self.data}")
        owner = self.data.stat() if self.data.exists() else None
        if owner is not None and owner.st_uid != os.geteuid():
            return owned_by(owner.st_uid, owner.st_gid, programs.command("pg_ctl", *words))
        return living_on(programs, "pg_ctl", *words)

    def _told(self) -> str:
        path = self.data / _LOG
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

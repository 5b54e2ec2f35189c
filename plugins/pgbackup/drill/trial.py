"""One drill under way: its steps, its findings, the folder that it works in."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgbackup import scratch
from pgbackup.domain import findings as named
from pgbackup.domain.drill import DrillStep
from pgbackup.domain.errors import BusyError, RefusedError
from pgbackup.domain.findings import timed
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site
from pgbackup.domain.rates import Rates, learned
from pgbackup.recover.replay import wait_for_leftover

log = logging.getLogger(__name__)


@dataclass
class Trial:
    """What a scenario has done so far. ``about`` names the finding that an answer of "no" belongs to."""

    site: Site
    cluster: str
    subject: str = ""
    about: str = named.BYTES
    steps: list[DrillStep] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    rpo_seconds: float | None = None

    @property
    def repository(self) -> str:
        """Whose copies are tried."""
        return self.site.local.name

    @property
    def jobs(self) -> int:
        """How much is done at the same time."""
        return self.site.settings.cluster(self.cluster).verify_backup.jobs

    def rates(self) -> Rates:
        """Return what predictions are made from."""
        return learned(self.site.catalog.measurements(self.cluster, self.repository))

    @contextlib.contextmanager
    def step(self, name: str, predicted: float) -> Iterator[None]:
        """Measure a step, one that fails too; ``predicted`` is in seconds."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.took(DrillStep(name, time.monotonic() - begun, predicted))

    def took(self, step: DrillStep) -> None:
        """Note a measured step."""
        self.steps.append(step)
        log.info("%s: %.1f s, predicted %.1f s", step.name, step.seconds, step.predicted)

    def ask(self, name: str, check: Callable[[], named.Answer]) -> bool:
        """Note what a check answers; a refusal is an answer, too."""

        def answer() -> named.Answer:
            try:
                return check()
            except RefusedError as error:
                return False, ": ".join(filter(None, (error.message, error.detail))), error.hint or ""

        self.findings.append(timed(name, answer, clock=time.monotonic))
        return self.findings[-1].ok


@contextlib.contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """Hold a folder that is empty at the beginning, whoever was killed there, and gone at the end.

    Raises BusyError while another process holds it.
    """
    scratch.make_private(folder)
    with scratch.held(folder, BusyError("another process does this drill", hint="wait for it to end")):
        wait_for_leftover(folder / "server" / "data")
        for path in folder.iterdir():
            shutil.rmtree(path)
        try:
            yield
        finally:
            shutil.rmtree(folder)

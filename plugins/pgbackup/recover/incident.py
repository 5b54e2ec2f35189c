"""The journal of a disaster recovery: lines that are durable before the next step begins, whatever is killed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.findings import Answer, Check, timed
from pgbackup.domain.incident import Doing, Event, Fact, Incident, What
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Clock
from pgbackup.domain.settings import Settings
from pgbackup.postgres.connection import server_errors
from pgbackup.recover.workplace import sync_folder, write_whole
from pgbackup.scratch import make_private

log = logging.getLogger(__name__)

_JOURNAL = "journal.jsonl"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,80}")
_events = TypeAdapter(Event)


@dataclass(frozen=True)
class Told:
    """What a step has to tell."""

    detail: str
    findings: tuple[Finding, ...] = ()
    facts: Mapping[Fact, str] = field(default_factory=dict)


def judged(name: str, check: Check) -> Finding:
    """Run a check; what it raises of ours, or a server's refusal, is a finding that does not hold."""

    def answer() -> Answer:
        try:
            with server_errors("the server"):
                return check()
        except PgBackupError as error:
            return False, ": ".join(filter(None, (error.message, error.detail))), error.hint or ""

    return timed(name, answer, clock=time.monotonic)


@dataclass(frozen=True)
class Journal:
    """One incident's folder; many processes, one after the other, write to its journal."""

    folder: Path
    clock: Clock

    def declare(self, at: datetime, detail: str, facts: Mapping[Fact, str]) -> None:
        """Begin the journal with when and why somebody asked; a try again adds nothing."""
        try:
            make_private(self.folder)
        except OSError as error:
            raise UnfitError(f"no journal can be kept in {self.folder}", detail=error.strerror) from None
        try:
            self.read()
        except RefusedError:
            self._append(Event(at, What.DECLARED, None, detail, (), facts))

    def take(self, step: Doing, do: Callable[[], Told]) -> Told:
        """Take a step between two lines of the journal; what it raises is written down, too."""
        self._append(Event(self.clock(), What.BEGUN, step))
        with self.failing(step):
            told = do()
        self._append(Event(self.clock(), What.DONE, step, told.detail, told.findings, told.facts))
        log.info("%s: %s", step, told.detail)
        for finding in told.findings:
            log.info("%s: %s %s", finding.name, "ok" if finding.ok else "FAILED", finding.detail)
        return told

    @contextlib.contextmanager
    def failing(self, step: Doing) -> Iterator[None]:
        """Write down, as a step's failure, what the block raises."""
        try:
            yield
        except BaseException as error:
            self._append(Event(self.clock(), What.FAILED, step, str(error) or type(error).__name__))
            raise

    def decide(self, step: Doing, detail: str, *, approved: bool) -> None:
        """Write down what somebody decided about a step's plan, or that nobody did."""
        self._append(Event(self.clock(), What.APPROVED if approved else What.REJECTED, step, detail))

    def keep(self, name: str, text: str) -> None:
        """Write a file beside the journal, whole, in the place of an older one."""
        write_whole(self.folder / name, text.encode())

    def read(self) -> Incident:
        """Return what was written; raises RefusedError when there is no journal."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            raise RefusedError(f"there is no incident {self.folder.name}", detail=str(self.folder)) from None
        events: list[Event] = []
        for line in lines:
            try:
                events.append(_events.validate_json(line))
            except ValidationError:
                log.warning("a line of %s cannot be read", self._path)
        if not events:
            raise RefusedError(f"the journal of {self.folder.name} holds nothing that can be read")
        return Incident(self.folder.name, tuple(events), len(lines) - len(events))

    @property
    def _path(self) -> Path:
        return self.folder / _JOURNAL

    def _append(self, event: Event) -> None:
        try:
            with os.fdopen(
                os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0
            ) as file:
                end = os.fstat(file.fileno()).st_size
                half = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"  # of one who was killed
                file.write((b"\n" if half else b"") + _events.dump_json(event) + b"\n")
                os.fsync(file.fileno())
            if end == 0:
                sync_folder(self.folder)
        except OSError as error:
            raise UnavailableError(
                f"the journal in {self.folder} cannot be written", detail=error.strerror, hint="free space there"
            ) from error


def journal_of(settings: Settings, name: str, clock: Clock) -> Journal:
    """Return the journal of an incident; nothing is made yet. Raises ConfigurationError for what is no name."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError("not a name of an incident", detail=repr(name[:80]))
    return Journal(settings.paths.incidents_folder / name, clock)

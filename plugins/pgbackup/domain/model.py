"""The nouns: frozen values that the verbs pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Kind(StrEnum):
    """What a backup is; the value is its directory in a repository."""

    FULL = "full"
    BASE = "base"
    INCREMENTAL = "incremental"


class State(StrEnum):
    """The life of a backup in the catalog."""

    RUNNING = "running"
    CAPTURED = "captured"
    VERIFIED = "verified"
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"


class CopyState(StrEnum):
    """One backup in one repository."""

    STORED = "stored"
    VERIFIED = "verified"
    DAMAGED = "damaged"
    EXPIRED = "expired"


class Verdict(StrEnum):
    """What a verification concluded; no verdict is None: the verifier could not judge."""

    VERIFIED = "verified"
    REJECTED = "rejected"


class Severity(StrEnum):
    """What it amounts to when a finding does not hold; only a failure makes a run red."""

    FAILURE = "failure"
    WARNING = "warning"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One named check of a verification or a preflight: its result, how long it took, what to do about it."""

    name: str
    ok: bool
    seconds: float
    detail: str = ""
    hint: str = ""
    severity: Severity = Severity.FAILURE

    @property
    def fails(self) -> bool:
        """It does not hold, and has to."""
        return not self.ok and self.severity is Severity.FAILURE


SILENT = timedelta(minutes=20)
"""After so long without a look at a cluster, what was seen is no longer what is: four intervals of the watch."""
_SETTLES = timedelta(minutes=30)
_LONGEST = timedelta(hours=6)


@dataclass(frozen=True)
class Watched:
    """What the watch last found under one name, and whether people were told that it holds.

    ``relapses`` counts how often it failed again within a day of having recovered.
    """

    name: str
    ok: bool
    detail: str
    hint: str
    owner: str
    since: datetime
    seen_at: datetime
    told_ok: bool
    relapses: int = 0

    @property
    def is_news(self) -> bool:
        """It changed since people last heard of it, for good as far as one can tell."""
        return self.ok is not self.told_ok and (not self.ok or self.seen_at - self.since >= self.settles)

    @property
    def settles(self) -> timedelta:
        """How long it has to hold before that is told: what comes and goes is no news each time.

        Nothing at first; after a relapse half an hour, twice as long after each further one, six hours at most.
        """
        return min(_SETTLES * 2 ** min(self.relapses - 1, 10), _LONGEST) if self.relapses else timedelta(0)


@dataclass(frozen=True)
class Measurement:
    """How many bytes a step of a restore went through, in how many seconds (more than none of both)."""

    step: str
    bytes: int
    seconds: float
    at: datetime


@dataclass(frozen=True)
class Verification:
    """One attempt to prove one copy of one backup."""

    backup_id: str
    repository: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    verdict: Verdict | None
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Elapsed time from the first check to the verdict."""
        return (self.finished_at - self.started_at).total_seconds() if self.finished_at else 0.0


@dataclass(frozen=True)
class Copy:
    """A backup in one repository."""

    repository: str
    state: CopyState
    stored_at: datetime
    verified_at: datetime | None


@dataclass(frozen=True)
class WalCopy:
    """How far a repository is with a cluster's WAL; all that was sealed up to ``whole_at`` is there."""

    repository: str
    whole_at: datetime | None
    missing: int
    error: str
    seen_at: datetime


@dataclass(frozen=True)
class Backup:
    """A row of ``backup_log`` with its copies."""

    id: str
    cluster: str
    kind: Kind
    method: str | None
    state: State
    parent: str | None
    owner: str
    backup_time: datetime | None
    started_at: datetime
    finished_at: datetime | None
    bytes: int | None
    error: str | None
    copies: tuple[Copy, ...] = ()
    database_bytes: int | None = None


@dataclass(frozen=True)
class Listed:
    """A backup as a long list shows it; ``moment`` is what it shows, or when it was tried; copies by repository."""

    id: str
    kind: Kind
    method: str | None
    state: State
    parent: str | None
    moment: datetime
    seconds: float | None
    bytes: int | None
    copies: Mapping[str, CopyState]


@dataclass(frozen=True)
class Holding:
    """What one repository holds of a kind: copies, those that are proved or damaged, bytes, when one was proved."""

    repository: str
    kind: Kind
    copies: int
    verified: int
    damaged: int
    bytes: int
    verified_at: datetime | None


@dataclass(frozen=True)
class Captured:
    """What was captured of a kind in the week that begins on Monday ``week``, UTC; deleted backups count, too."""

    kind: Kind
    week: datetime
    bytes: int


@dataclass(frozen=True)
class Message:
    """What people are to hear; ``link`` is where the run is seen."""

    cluster: str
    subject: str
    html: str
    link: str


@dataclass(frozen=True)
class Unsent:
    """A message that its channel did not take: since when it is kept, and why."""

    number: int
    channel: str
    message: Message
    kept_at: datetime
    error: str


@dataclass(frozen=True)
class ConnectionParameters:
    """How to reach a server: libpq keywords without the password, which is kept apart so that it is never printed."""

    keywords: Mapping[str, str]
    password: str | None = field(default=None, repr=False)

    def replace(self, **keywords: str) -> ConnectionParameters:
        """Return a copy with some libpq keywords changed."""
        return ConnectionParameters({**self.keywords, **keywords}, self.password)


@dataclass(frozen=True)
class Command:
    """A program to run: argv, never a shell string.

    ``env`` is added to a clean environment. ``secret`` reaches the program through a pipe whose file descriptor's
    number replaces the argument SECRET_FD, so that it is neither in argv, nor in the environment, nor on disk.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secret: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The program's bare name, for messages."""
        return self.argv[0].rsplit("/", 1)[-1]


SECRET_FD = "{secret-fd}"  # noqa: S105 - a placeholder, not a secret

UNLESS_ORPHANED = ("sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')
"""Put before a parent's process id and a program: runs it unless that parent has ended. Who was killed between a
program's start and the setting of its death signal is not missed by that signal."""


@dataclass(frozen=True)
class Measured:
    """What passed one point of a stream: bytes and their SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Piped:
    """A finished pipeline: what entered (plain) and what came out (stored), when capturing; reversed when fetching."""

    source: Measured
    sink: Measured


@dataclass(frozen=True)
class ObjectInfo:
    """An object of a repository."""

    key: str
    bytes: int
    modified: datetime

"""What the verbs need from the world, as Protocols, and the Site that carries one of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pgbackup.domain.drill import Drill
from pgbackup.domain.keys import Key
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.metrics import Sample
from pgbackup.domain.model import (
    Backup,
    Captured,
    Command,
    ConnectionParameters,
    Copy,
    CopyState,
    Finding,
    Holding,
    Kind,
    Listed,
    Measurement,
    Message,
    ObjectInfo,
    Piped,
    State,
    Unsent,
    Verdict,
    Verification,
    WalCopy,
    Watched,
)
from pgbackup.domain.prospect import Prospect
from pgbackup.domain.settings import Load, Settings

Clock = Callable[[], datetime]


class Readable(Protocol):
    """A source of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; b"" at the end."""


class Writable(Protocol):
    """A sink of bytes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of ``data`` or raise."""


class Process(Protocol):
    """A program that keeps running until stopped."""

    @property
    def pid(self) -> int:
        """The operating system's number of it."""

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""

    def stop(self, signal: int, timeout: float) -> int:
        """Send ``signal``, wait ``timeout`` seconds, then kill; return the exit status."""

    def stderr(self) -> str:
        """Return the redacted end of what it printed to standard error."""


class Runner(Protocol):
    """The only door to other programs. Checks every exit status, redacts what they print, ends them on request."""

    def run(self, command: Command, *, feed: bytes = b"", ok: frozenset[int] = frozenset({0})) -> tuple[bytes, str]:
        """Run to the end; return (stdout, redacted stderr). Raises ProgramFailed for a status not in ``ok``."""

    def pipe(
        self,
        source: Command | Readable,
        *,
        through: Sequence[Command] = (),
        sink: Writable,
        progress: Callable[[int], None] | None = None,
    ) -> Piped:
        """Stream ``source`` through filters into ``sink``, measuring both ends.

        Raises ProgramFailed (the first program at fault) or the source's or sink's own error; then every program
        of the pipeline has ended.
        """

    def spawn(self, command: Command) -> Process:
        """Start a program that runs on, in its own session; it dies with this process."""

    def lowered(self, load: Load) -> Runner:
        """Return a runner whose programs start at the priority of ``load``; terminate() of either ends both's."""

    def terminate(self) -> None:
        """End every program that is still running, and start none any more; from any thread, more than once."""


class Sink(Writable, Protocol):
    """An object being written; nobody sees it before it is complete."""


class Store(Protocol):
    """One repository. Objects are written once, whole or not at all."""

    @property
    def name(self) -> str:
        """The repository's name: ``local`` or a region's."""

    def create(self, key: str) -> AbstractContextManager[Sink]:
        """Write an object: durable and visible when the block ends well, gone when it raises.

        Raises RefusedError when the key exists, UnavailableError when the storage fails.
        """

    def open(self, key: str) -> AbstractContextManager[Readable]:
        """Read an object; raises RefusedError when it is missing."""

    def read(self, key: str) -> bytes:
        """Return a small object whole; raises RefusedError when it is missing."""

    def matches(self, key: str, source: Readable) -> bool:
        """Tell whether an object has exactly these bytes; by the checksum that the storage keeps of it, if it does.

        Raises RefusedError when the object is missing.
        """

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """List the complete objects whose key starts with ``prefix``, in key order, as a whole or folder by folder.

        Those up to the key ``after``, which names no folder, are passed over and cost nothing.
        """

    def delete(self, key: str) -> None:
        """Remove an object; no error when it is missing.

        Where the storage locks what it is given, its bytes go with it: raises UnfitError while they are locked.
        """

    def clean(self, prefix: str) -> None:
        """Remove everything under a prefix, unfinished objects included."""

    def hold(self, key: str, *, on: bool) -> None:
        """Forbid everybody to delete an object, or stop that; nothing happens where the storage has no lock for us."""

    def free_bytes(self) -> int | None:
        """Return the space left, None where there is no limit to know."""


class Keyring(Protocol):
    """Encryption for all recipients, and the way back."""

    @property
    def suffix(self) -> str:
        """What encrypted files' names end in: ``.gpg``, or nothing when encryption is off."""

    def recipients(self) -> tuple[str, ...]:
        """Return the recipients' fingerprints; raises UnfitError for a missing, unusable or expired key."""

    def new_passphrase(self) -> bytes:
        """Return a random passphrase, printable, one line."""

    def wrap(self, passphrase: bytes) -> bytes:
        """Encrypt a passphrase to all recipients."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """Open a wrapped passphrase with a private key.

        Raises WrongKeyError when none of ours fits, UnfitError when ours cannot be used, RefusedError when the
        wrapped passphrase is damaged.
        """

    def identities(self) -> tuple[str, ...]:
        """Return the fingerprints of our private keys."""

    def sealed_for(self, data: bytes) -> frozenset[str]:
        """Name who can open what was wrapped or sealed; its beginning is enough.

        A key that is configured here by its fingerprint, any other by the id of its encryption key. Raises RefusedError
        when it is nothing of the kind.
        """

    def expiries(self) -> tuple[Key, ...]:
        """List every key that is configured; raises UnfitError for a file that is missing or no key."""

    def sign(self, data: bytes) -> bytes:
        """Return a detached signature, b"" where no signing key is configured; raises UnfitError if it cannot sign."""

    def check_signature(self, data: bytes, signature: bytes | None) -> None:
        """Raise RefusedError unless one of the configured keys signed exactly this; no keys: nothing is asked for."""

    def encrypt(self, passphrase: bytes) -> tuple[Command, ...]:
        """Return the filters that encrypt a stream (none when encryption is off)."""

    def decrypt(self, passphrase: bytes) -> tuple[Command, ...]:
        """Return the filters that decrypt a stream; their output counts only once they exited 0."""

    def seal(self) -> tuple[Command, ...]:
        """Return the filters that encrypt a stream to all recipients, without a passphrase (WAL files)."""

    def opened(self) -> AbstractContextManager[tuple[Command, ...]]:
        """Unlock the private keys; yield the filters that decrypt what was sealed, for any number of streams at once.

        Raises UnfitError when ours cannot be used; a filter fails when none of ours fits.
        """


class Catalog(Protocol):
    """``backup_log`` and its friends: a cache of what the repositories hold."""

    def exclusive(self, cluster: str, *, purpose: str) -> AbstractContextManager[None]:
        """Hold the cluster for this process; raises BusyError when another process does. Ends with the process."""

    def begin(self, backup_id: str, *, cluster: str, kind: Kind, owner: str, now: datetime) -> None:
        """Record that a capture started."""

    def captured(self, manifest: Manifest, *, repository: str, now: datetime) -> None:
        """Record a committed backup and its first copy."""

    def failed(self, backup_id: str, *, error: str, now: datetime) -> None:
        """Record that a capture failed."""

    def backup(self, backup_id: str) -> Backup | None:
        """Return one backup."""

    def backups(self, cluster: str | None = None, *, states: frozenset[State] | None = None) -> tuple[Backup, ...]:
        """Return backups, newest first."""

    def begin_verification(self, backup_id: str, *, repository: str, owner: str, now: datetime) -> int:
        """Open an attempt and return its number; the same owner's unfinished attempt is taken up again."""

    def found(self, backup_id: str, *, repository: str, attempt: int, step: str, findings: Sequence[Finding]) -> None:
        """Record a step's findings, replacing those of an earlier try of the step."""

    def conclude(
        self,
        backup_id: str,
        *,
        repository: str,
        attempt: int,
        verdict: Verdict | None,
        reason: str,
        now: datetime,
    ) -> None:
        """Close an attempt; a verdict moves the copy's and the backup's state."""

    def verification(self, backup_id: str, *, repository: str, attempt: int | None = None) -> Verification | None:
        """Return an attempt with its findings, the latest by default."""

    def verifications(self, backup_id: str) -> tuple[Verification, ...]:
        """Return every attempt on a backup, newest first."""

    def backups_of(self, owner: str) -> tuple[Backup, ...]:
        """Return what one run captured or tried to."""

    def verifications_of(self, owner: str) -> tuple[Verification, ...]:
        """Return what one run verified or tried to, with findings."""

    def copies(self, backup_id: str) -> tuple[Copy, ...]:
        """Return a backup's copies."""

    def expire(self, backup_id: str, *, repository: str) -> None:
        """Record that a copy is deleted; the backup expires with its last one."""

    def copied(self, backup_id: str, *, repository: str, now: datetime) -> None:
        """Record that a repository holds a backup, again if it was damaged there."""

    def wal_copied(
        self, cluster: str, repository: str, *, whole_at: datetime | None, missing: int, error: str, now: datetime
    ) -> None:
        """Record how far a repository is with the WAL; without ``whole_at`` it is as far as it was."""

    def wal_copies(self, cluster: str) -> tuple[WalCopy, ...]:
        """Return how far each repository is with the WAL, by name."""

    def saw(self, cluster: str, findings: Sequence[Finding], *, owner: str, now: datetime) -> None:
        """Record what the watch found; what it did not judge this time stays as it was."""

    def watched(self, cluster: str) -> tuple[Watched, ...]:
        """Return the newest state of every watched name, what does not hold first."""

    def told(self, watched: Sequence[Watched], *, cluster: str) -> None:
        """Record that people heard of these states."""

    def forget(self, cluster: str, names: Sequence[str]) -> None:
        """Drop the state of names that are not watched any more."""

    def keep(self, message: Message, *, channel: str, error: str, now: datetime) -> None:
        """Keep a message that a channel did not take."""

    def unsent(self) -> tuple[Unsent, ...]:
        """Return the messages that are kept, of all clusters, oldest first."""

    def sending(self, number: int) -> AbstractContextManager[bool]:
        """Hold a kept message while it is sent; it is gone when the block ends well, and stays when it raises.

        False when somebody else is sending it, or has.
        """

    def gauged(self, cluster: str, samples: Sequence[Sample], *, now: datetime) -> None:
        """Record what the watch measured, in place of what it measured before."""

    def gauges(self, cluster: str) -> tuple[Sample, ...]:
        """Return what the watch measured last."""

    def measured(self, cluster: str, repository: str, measurement: Measurement) -> None:
        """Record how long a step took; the last hundred of each step are kept."""

    def measurements(self, cluster: str, repository: str) -> tuple[Measurement, ...]:
        """Return what was measured, newest first."""

    def drilled(self, drill: Drill) -> None:
        """Record a drill; one that is known already stays as it is."""

    def drills(self, cluster: str) -> tuple[Drill, ...]:
        """Return a cluster's drills, newest first."""

    def listed(self, cluster: str) -> tuple[Listed, ...]:
        """Return every backup that is somewhere, runs or failed, newest first; quick for thousands."""

    def holdings(self, cluster: str) -> tuple[Holding, ...]:
        """Return what each repository holds of each kind."""

    def captured_weekly(self, cluster: str, *, since: datetime) -> tuple[Captured, ...]:
        """Return what was captured, by kind and week."""

    def looked(self, prospect: Prospect) -> None:
        """Record what can be recovered, in place of what was seen before."""

    def prospect(self, cluster: str) -> Prospect | None:
        """Return what can be recovered, as somebody last saw it; None when nobody looked yet."""

    def register(
        self,
        manifest: Manifest,
        *,
        repository: str,
        copy: CopyState,
        verifications: Sequence[Verification],
        now: datetime,
    ) -> None:
        """Record a backup that was found in a repository, with its attested verifications (catalog rebuild)."""


@dataclass(frozen=True)
class Site:
    """Everything a verb needs from outside; the faces (command line, Airflow adapter) build it."""

    settings: Settings
    runner: Runner
    keyring: Keyring
    catalog: Catalog
    repositories: Mapping[str, Store]
    connections: Callable[[str], ConnectionParameters]
    recovery_connections: Callable[[str], ConnectionParameters]
    clock: Clock
    owner: str
    progress: Callable[[str, int], None] = field(default=lambda _label, _bytes: None)

    @property
    def local(self) -> Store:
        """The repository that captures go to first."""
        return self.repositories["local"]

    @property
    def spool(self) -> Path:
        """Private scratch on the local repository's filesystem."""
        return self.settings.paths.spool_folder

"""GPG as a Keyring: a random passphrase encrypts a backup, public keys encrypt the passphrase.

Stock gpg opens it in two steps: ``gpg -d key.1.gpg > pass``, then ``gpg --batch --passphrase-file pass -d FILE``.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import (
    PgBackupError,
    ProgramFailed,
    RefusedError,
    UnavailableError,
    UnfitError,
    WrongKeyError,
)
from pgbackup.domain.model import SECRET_FD, Command
from pgbackup.domain.ports import Runner
from pgbackup.domain.settings import Encryption
from pgbackup.scratch import private_folder

_QUIET = (
    "--batch",
    "--yes",
    "--no-tty",
    "--quiet",
    "--no-autostart",
    "--disable-dirmngr",
    "--no-auto-key-locate",
)
_CIPHER = ("--cipher-algo", "AES256", "--compress-algo", "none")
_LOOPBACK = ("--pinentry-mode", "loopback", "--passphrase-fd", SECRET_FD)
# The passphrase has 256 random bits: stretching it would only cost time, and asking the agent how much, an agent.
_S2K = ("--s2k-mode", "3", "--s2k-digest-algo", "SHA256", "--s2k-count", "65536")
# Otherwise the agent measures the machine for seconds, to protect a copy of the key that lives for one.
_STRETCH = ("--s2k-count", "1048576")
_AGENT_TIMEOUT = 30.0
# What gpg says when the machine, not the file, is at fault.
_INCAPABLE = re.compile(
    r"(?i)no agent running|connect to the agent|no space left|out of core|cannot allocate|permission"
)


@dataclass(frozen=True)
class PublicKey:
    """A recipient's key file as gpg lists it; ``expires`` in seconds since 1970, None for never."""

    path: Path
    fingerprint: str
    expires: int | None
    usable: bool


class PlainKeyring:
    """Encryption switched off by configuration."""

    suffix = ""

    def recipients(self) -> tuple[str, ...]:
        """Nobody needs a key."""
        return ()

    def new_passphrase(self) -> bytes:
        """No passphrase is needed."""
        return b""

    def wrap(self, passphrase: bytes) -> bytes:
        """Nothing to wrap."""
        return passphrase

    def unwrap(self, wrapped: bytes) -> bytes:
        """Nothing to unwrap."""
        return wrapped

    def identities(self) -> tuple[str, ...]:
        """Nobody needs a key."""
        return ()

    def encrypt(self, passphrase: bytes) -> tuple[Command, ...]:
        """No filter."""
        del passphrase
        return ()

    def decrypt(self, passphrase: bytes) -> tuple[Command, ...]:
        """No filter."""
        del passphrase
        return ()

    def seal(self) -> tuple[Command, ...]:
        """No filter."""
        return ()

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Command, ...]]:
        """No filter."""
        yield ()


class GpgKeyring:
    """Encryption by stock gpg, without any keyring of the user's."""

    suffix = ".gpg"

    def __init__(self, settings: Encryption, runner: Runner, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._runner = runner
        self._clock = clock

    def recipients(self) -> tuple[str, ...]:
        """Return the recipients' fingerprints, each key checked; see ports.Keyring."""
        return tuple(key.fingerprint for key in self.public_keys())

    def public_keys(self) -> tuple[PublicKey, ...]:
        """Read the recipients' key files; raises UnfitError for one that cannot encrypt today."""
        keys = tuple(self._public_key(path) for path in self._settings.recipients)
        for key in keys:
            if key.expires is not None and key.expires <= self._clock():
                day = time.strftime("%Y-%m-%d", time.gmtime(key.expires))
                raise UnfitError(
                    f"the public key {key.path} expired on {day}",
                    detail=key.fingerprint,
                    hint="extend it or replace it in encryption.recipients",
                )
            if not key.usable:
                raise UnfitError(
                    f"the public key {key.path} cannot encrypt",
                    detail=key.fingerprint,
                    hint="export a key that has an encryption subkey: gpg --armor --export WHO",
                )
        return keys

    def new_passphrase(self) -> bytes:
        """Return 256 random bits as text, one line."""
        return secrets.token_urlsafe(32).encode() + b"\n"

    def wrap(self, passphrase: bytes) -> bytes:
        """Encrypt a passphrase to all recipients."""
        self.public_keys()
        [command] = self.seal()
        output, _ = self._runner.run(command, feed=passphrase)
        return output

    def unwrap(self, wrapped: bytes) -> bytes:
        """Open a wrapped passphrase with the configured private keys; see ports.Keyring."""
        with self._unlocked() as (home, secret):
            try:
                output, _ = self._runner.run(_gpg(home, *_LOOPBACK, "--decrypt", secret=secret), feed=wrapped)
            except ProgramFailed as error:
                self._check_passphrase(home, secret)
                raise _unwrap_failure(error) from None
        if not output:  # gpg is content with an input that ends inside its first packet
            raise RefusedError("the wrapped passphrase is cut short", hint="verify another copy of this backup")
        return output

    def identities(self) -> tuple[str, ...]:
        """Return the fingerprints of our private keys."""
        return tuple(self._public_key(path).fingerprint for path in self._settings.private_keys)

    def encrypt(self, passphrase: bytes) -> tuple[Command, ...]:
        """Return the gpg filter that encrypts with the backup's passphrase."""
        return (self._symmetric(passphrase, *_CIPHER, *_S2K, "--symmetric"),)

    def decrypt(self, passphrase: bytes) -> tuple[Command, ...]:
        """Return the gpg filter that decrypts; a tampered stream makes it exit non-zero, after its output."""
        return (self._symmetric(passphrase, "--decrypt"),)

    def seal(self) -> tuple[Command, ...]:
        """Return the gpg filter that encrypts to all recipients."""
        files = [argument for path in self._settings.recipients for argument in ("--recipient-file", str(path))]
        options = ("--no-keyring", "--no-options", "--no-random-seed-file", "--trust-model", "always")
        return (_gpg("/nonexistent", *options, *_CIPHER, *files, "--output", "-", "--encrypt"),)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Command, ...]]:
        """Unlock the private keys for many streams; see ports.Keyring."""
        with self._unlocked() as (home, secret):
            self._check_passphrase(home, secret)
            yield (_gpg(home, "--lock-never", *_LOOPBACK, "--decrypt", secret=secret),)

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[tuple[str, bytes]]:
        """Put the private keys into a home of their own; yield it and their passphrase."""
        if not self._settings.private_keys:
            raise UnfitError(
                "no private key is configured here",
                hint="name secret key files in encryption.private_keys on the side that verifies and recovers",
            )
        secret = self._passphrase()
        with _home() as home, self._agent(home):
            self._import(home, secret)
            yield home, secret

    def _symmetric(self, passphrase: bytes, *options: str) -> Command:
        # No keyring and no agent is used: the home only has to be named, and never exist.
        return _gpg("/nonexistent", "--no-keyring", "--no-options", *_LOOPBACK, *options, secret=passphrase)

    def _passphrase(self) -> bytes:
        path = self._settings.passphrase_file
        if path is None:
            return b"\n"
        try:
            return path.read_bytes().rstrip(b"\n") + b"\n"
        except OSError as error:
            raise UnfitError(
                "cannot read the private key's passphrase",
                detail=f"{path}: {error.strerror}",
                hint="see encryption.passphrase_file",
            ) from None

    def _import(self, home: str, secret: bytes) -> None:
        for path in self._settings.private_keys:
            if not path.is_file():
                raise UnfitError("a private key file is missing", detail=str(path), hint="see encryption.private_keys")
            try:
                self._runner.run(_gpg(home, *_LOOPBACK, "--import", str(path), secret=secret))
            except ProgramFailed as error:
                raise UnfitError(
                    f"{path} is not a private key file",
                    detail=error.detail,
                    hint="gpg --armor --export-secret-keys WHO > FILE",
                ) from None

    def _check_passphrase(self, home: str, secret: bytes) -> None:
        """Raise UnfitError when the passphrase opens our own keys not: gpg then only says that it has none."""
        _, complaints = self._runner.run(
            _gpg(home, *_LOOPBACK, "--export-secret-keys", secret=secret), ok=frozenset({0, 2})
        )
        if "passphrase" in complaints:
            raise UnfitError(
                "the private key's passphrase is wrong", detail=complaints, hint="see encryption.passphrase_file"
            )

    @contextlib.contextmanager
    def _agent(self, home: str) -> Iterator[None]:
        """Run the agent that private keys need. It ends soon after the program it was given, and that one ends with
        this process, however that ends: an agent that gpg starts by itself would live on, with the keys.
        """
        options = ("--quiet", *_STRETCH, "--daemon", "--no-detach", "sleep", "infinity")
        holder = self._runner.spawn(Command(("gpg-agent", "--homedir", home, *options)))
        try:
            deadline = time.monotonic() + _AGENT_TIMEOUT
            while not self._agent_answers(home):
                if holder.poll() is not None or time.monotonic() > deadline:
                    raise UnavailableError("gpg-agent does not start", detail=holder.stderr())
                time.sleep(0.01)
            yield
        finally:
            with contextlib.suppress(PgBackupError):
                self._runner.run(Command(("gpgconf", "--homedir", home, "--kill", "all")))
            holder.stop(signal.SIGTERM, _AGENT_TIMEOUT)

    def _agent_answers(self, home: str) -> bool:
        ask = Command(("gpg-connect-agent", "--homedir", home, "--no-autostart", "--quiet", "GETINFO pid", "/bye"))
        output, _ = self._runner.run(ask, ok=frozenset(range(3)))
        return output.rstrip().endswith(b"OK")

    def _public_key(self, path: Path) -> PublicKey:
        if not path.is_file():
            raise UnfitError(
                "unknown recipient: its public key file is missing",
                detail=str(path),
                hint="see encryption.recipients",
            )
        with _home() as home:
            try:
                output, _ = self._runner.run(_gpg(home, "--with-colons", "--show-keys", str(path)))
            except ProgramFailed as error:
                raise UnfitError(
                    f"{path} is not a public key file",
                    detail=error.detail,
                    hint="gpg --armor --export WHO > FILE",
                ) from None
        return parse_public_key(path, output.decode(errors="replace").splitlines())


def parse_public_key(path: Path, lines: Sequence[str]) -> PublicKey:
    """Read gpg's --with-colons listing: field 7 is the expiry, field 12 the capabilities (E: the key can encrypt)."""
    rows = [line.split(":") for line in lines]
    primary = next((row for row in rows if row[0] in {"pub", "sec"}), None)
    fingerprint = next((row[9] for row in rows if row[0] == "fpr"), None)
    if primary is None or fingerprint is None:
        raise UnfitError(f"{path} holds no public key", hint="gpg --armor --export WHO > FILE")
    encrypting = [row for row in rows if row[0] in {"pub", "sub", "sec", "ssb"} and "e" in row[11]]
    expiries = [int(row[6]) for row in (primary, *encrypting[-1:]) if row[6]]
    return PublicKey(path, fingerprint, min(expiries, default=None), "E" in primary[11] or bool(encrypting))


def _unwrap_failure(error: ProgramFailed) -> PgBackupError:
    """Tell a wrong key from a damaged file; gpg speaks English here (LC_ALL=C)."""
    if error.by_signal or _INCAPABLE.search(error.stderr):
        return error
    if "No secret key" in error.stderr:
        return WrongKeyError(
            "none of our private keys opens this backup",
            detail=error.detail,
            hint="the manifest lists the recipients: name one of their private keys in encryption.private_keys",
        )
    return RefusedError(
        "the wrapped passphrase is damaged", detail=error.detail, hint="verify another copy of this backup"
    )


def _gpg(home: str, *options: str, secret: bytes | None = None) -> Command:
    return Command(("gpg", "--homedir", home, *_QUIET, *options), secret=secret)


@contextlib.contextmanager
def _home() -> Iterator[str]:
    """Make a private gpg home."""
    with private_folder() as folder:
        yield str(folder)

"""GPG as a Keyring: a random passphrase encrypts a backup, public keys encrypt the passphrase.

Stock gpg opens it in two steps: ``gpg -d key.1.gpg > pass``, then ``gpg --batch --passphrase-file pass -d FILE``.
"""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnfitError, WrongKeyError
from pgbackup.domain.keys import Key, Role
from pgbackup.domain.model import Command
from pgbackup.domain.openpgp import key_ids
from pgbackup.domain.ports import Runner
from pgbackup.domain.settings import Encryption
from pgbackup.stream.gpg_home import LOOPBACK, SecretKeys, gpg
from pgbackup.stream.gpg_keys import PublicKey, Use, read_key
from pgbackup.stream.signing import Signing

_CIPHER = ("--cipher-algo", "AES256", "--compress-algo", "none")
# The passphrase has 256 random bits: stretching it would only cost time, and asking the agent how much, an agent.
_S2K = ("--s2k-mode", "3", "--s2k-digest-algo", "SHA256", "--s2k-count", "65536")
# What gpg says when the machine, not the file, is at fault.
_INCAPABLE = re.compile(
    r"(?i)no agent running|connect to the agent|no space left|out of core|cannot allocate|permission"
)


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

    def sealed_for(self, data: bytes) -> frozenset[str]:
        """Nobody needs a key."""
        del data
        return frozenset()

    def expiries(self) -> tuple[Key, ...]:
        """There are no keys."""
        return ()

    def sign(self, data: bytes) -> bytes:
        """Nothing is signed."""
        del data
        return b""

    def check_signature(self, data: bytes, signature: bytes | None) -> None:
        """No signature is asked for."""

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
        self._private = SecretKeys(
            runner,
            settings.private_keys,
            settings.passphrase_file,
            "encryption.private_keys",
            "encryption.passphrase_file",
        )
        self._signing = Signing(settings, runner)

    def recipients(self) -> tuple[str, ...]:
        """Return the recipients' fingerprints, each key checked; see ports.Keyring."""
        return tuple(key.fingerprint for key in self.public_keys())

    def public_keys(self) -> tuple[PublicKey, ...]:
        """Read the recipients' key files; raises UnfitError for one that cannot encrypt today."""
        keys = self._recipients()
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
                output, _ = self._runner.run(gpg(home, *LOOPBACK, "--decrypt", secret=secret), feed=wrapped)
            except ProgramFailed as error:
                self._private.check_passphrase(home, secret)
                raise _unwrap_failure(error) from None
        if not output:  # gpg is content with an input that ends inside its first packet
            raise RefusedError("the wrapped passphrase is cut short", hint="verify another copy of this backup")
        return output

    def identities(self) -> tuple[str, ...]:
        """Return the fingerprints of our private keys."""
        return tuple(key.fingerprint for key in self._private_keys())

    def sealed_for(self, data: bytes) -> frozenset[str]:
        """Name who can open what was wrapped or sealed; see ports.Keyring."""
        ids = key_ids(data)
        if not ids:
            raise RefusedError("not encrypted for any key", hint="verify another copy of this backup")
        return frozenset(self._names.get(name, name) for name in ids)

    def expiries(self) -> tuple[Key, ...]:
        """List every key that is configured; see ports.Keyring."""
        return tuple(
            Key(role, key.path, key.fingerprint, datetime.fromtimestamp(key.expires, UTC) if key.expires else None)
            for role, key in self._configured()
        )

    def sign(self, data: bytes) -> bytes:
        """Return a detached signature; see ports.Keyring."""
        return self._signing.sign(data)

    def check_signature(self, data: bytes, signature: bytes | None) -> None:
        """Raise RefusedError unless one of the configured keys signed exactly this; see ports.Keyring."""
        self._signing.check_signature(data, signature)

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
        return (gpg("/nonexistent", *options, *_CIPHER, *files, "--output", "-", "--encrypt"),)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Command, ...]]:
        """Unlock the private keys for many streams; see ports.Keyring."""
        with self._unlocked() as (home, secret):
            self._private.check_passphrase(home, secret)
            yield (gpg(home, "--lock-never", *LOOPBACK, "--decrypt", secret=secret),)

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[tuple[str, bytes]]:
        """Put the private keys into a home of their own; yield it and their passphrase."""
        if not self._settings.private_keys:
            raise UnfitError(
                "no private key is configured here",
                hint="name secret key files in encryption.private_keys on the side that verifies and recovers",
            )
        with self._private.unlocked() as unlocked:
            yield unlocked

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """The fingerprints of recipients and private keys, by the ids of the keys of theirs that encrypt."""
        return {name: key.fingerprint for key in (*self._recipients(), *self._private_keys()) for name in key.ids}

    def _recipients(self) -> tuple[PublicKey, ...]:
        return tuple(self._key(path, "encryption.recipients") for path in self._settings.recipients)

    def _private_keys(self) -> tuple[PublicKey, ...]:
        return tuple(self._key(path, "encryption.private_keys") for path in self._settings.private_keys)

    def _configured(self) -> Iterator[tuple[Role, PublicKey]]:
        for key in self._recipients():
            yield Role.ESCROW if key.path in self._settings.escrow else Role.RECIPIENT, key
        for key in self._private_keys():
            yield Role.PRIVATE, key
        if self._settings.signing_key is not None:
            yield Role.SIGNING, self._key(self._settings.signing_key, "encryption.signing_key", use="s")
        for path in self._settings.verify_keys:
            yield Role.VERIFY, self._key(path, "encryption.verify_keys", use="s")

    def _key(self, path: Path, setting: str, *, use: Use = "e") -> PublicKey:
        return read_key(self._runner, path, setting=setting, use=use)

    def _symmetric(self, passphrase: bytes, *options: str) -> Command:
        # No keyring and no agent is used: the home only has to be named, and never exist.
        return gpg("/nonexistent", "--no-keyring", "--no-options", *LOOPBACK, *options, secret=passphrase)


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

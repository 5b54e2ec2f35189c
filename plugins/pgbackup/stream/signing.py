"""Signatures by stock gpg. Which of them count is judged here: gpg itself is content with expired and revoked keys."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, RefusedError, UnfitError
from pgbackup.domain.ports import Runner
from pgbackup.domain.settings import Encryption
from pgbackup.stream.gpg_home import LOOPBACK, SecretKeys, gpg, new_home

_HINT = (
    "use another copy; one from before signatures were asked for is vouched for by `pgbackup keys sign`, by somebody"
    " who knows where it comes from"
)


@dataclass(frozen=True)
class _Verifier:
    """The keys whose signatures count, as a keyring and as gpg lists them, by id with the id of the primary key."""

    keyring: bytes
    rows: dict[str, tuple[list[str], ...]]


class Signing:
    """Signs with one key, and takes the signatures of a few."""

    def __init__(self, settings: Encryption, runner: Runner) -> None:
        self._settings = settings
        self._runner = runner

    def sign(self, data: bytes) -> bytes:
        """Return a detached signature; see ports.Keyring."""
        path = self._settings.signing_key
        if path is None:
            return b""
        file = self._settings.signing_passphrase_file
        keys = SecretKeys(self._runner, (path,), file, "encryption.signing_key", "encryption.signing_passphrase_file")
        with keys.unlocked() as (home, secret):
            try:
                output, _ = self._runner.run(gpg(home, *LOOPBACK, "--detach-sign", secret=secret), feed=data)
            except ProgramFailed as error:
                if error.by_machine:
                    raise
                keys.check_passphrase(home, secret)
                raise UnfitError(
                    f"{path} cannot sign",
                    detail=error.detail,
                    hint="it is expired, revoked or made for something else: replace it in encryption.signing_key",
                ) from None
        return output

    def check_signature(self, data: bytes, signature: bytes | None) -> None:
        """Raise RefusedError unless one of the configured keys signed exactly this; see ports.Keyring.

        A key that has expired since counts for what it signed before, by the signature's own time. A revoked one
        counts for nothing: nobody knows who has it.
        """
        if not self._settings.verify_keys:
            return
        if signature is None:
            raise RefusedError("there is no signature", hint=_HINT)
        verifier = self._verifier
        with new_home() as home:
            ring, file = Path(home, "keys.gpg"), Path(home, "signature")
            ring.write_bytes(verifier.keyring)
            file.write_bytes(signature)
            only = ("--no-options", "--no-default-keyring", "--keyring", str(ring), "--trust-model", "always")
            verify = gpg(home, *only, "--status-fd", "1", "--verify", str(file), "-")
            output, complaints = self._runner.run(verify, feed=data, ok=frozenset({0, 1, 2}))
        reasons = [_refusal(verifier, words) for words in _valid(output)]
        if not reasons or all(reasons):
            raise RefusedError(
                "the signature does not count", detail="; ".join(filter(None, reasons)) or complaints, hint=_HINT
            )

    @functools.cached_property
    def _verifier(self) -> _Verifier:
        paths = self._settings.verify_keys
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise UnfitError("a key file is missing", detail=", ".join(missing), hint="see encryption.verify_keys")
        with new_home() as home:
            try:
                self._runner.run(gpg(home, "--no-options", "--import", *map(str, paths)))
                keyring, _ = self._runner.run(gpg(home, "--no-options", "--export"))
                listing, _ = self._runner.run(gpg(home, "--no-options", "--with-colons", "--list-keys"))
            except ProgramFailed as error:
                raise UnfitError(
                    "the keys that sign backups cannot be read", detail=error.detail, hint="see encryption.verify_keys"
                ) from None
        return _Verifier(keyring, dict(_rows(listing.decode(errors="replace"))))


def _rows(listing: str) -> Iterator[tuple[str, tuple[list[str], ...]]]:
    primary: list[str] = []
    for row in (line.split(":") for line in listing.splitlines()):
        if row[0] == "pub":
            primary = row
        if row[0] in {"pub", "sub"}:
            yield row[4], (primary, row)


def _valid(status: bytes) -> Iterator[list[str]]:
    """Yield gpg's words on each signature that fits: fingerprint, day, time and expiry in seconds since 1970."""
    for line in status.decode(errors="replace").splitlines():
        words = line.split()
        if words[:2] == ["[GNUPG:]", "VALIDSIG"]:
            yield words[2:]


def _refusal(verifier: _Verifier, words: list[str]) -> str:
    """Say why a signature does not count; "" when it does."""
    fingerprint, _, signed, ends = words[:4]
    for row in verifier.rows[fingerprint[-16:]]:
        if row[1] == "r":
            return f"{fingerprint} is revoked"
        if row[6] and int(signed) >= int(row[6]):
            return f"{fingerprint} had expired when it signed"
    return f"the signature of {fingerprint} is limited in time" if ends != "0" else ""

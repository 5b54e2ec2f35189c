"""Real GPG keys, made by stock gpg."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SPEC = """Key-Type: eddsa
Key-Curve: ed25519
Key-Usage: sign
{subkey}Name-Email: {email}
Expire-Date: {expires}
Passphrase: {passphrase}
%commit
"""
_SUBKEY = """Subkey-Type: ecdh
Subkey-Curve: cv25519
Subkey-Usage: encrypt
"""
_RSA = """Subkey-Type: RSA
Subkey-Length: 3072
Subkey-Usage: encrypt
"""


@dataclass(frozen=True)
class KeyPair:
    public: Path
    private: Path
    passphrase_file: Path

    @property
    def revocation(self) -> Path:
        """The certificate that gpg made along with the key, for the day it is stolen."""
        return self.private.with_suffix(".rev")


def make_key(
    folder: Path,
    name: str,
    *,
    expires: str = "2y",
    faked_time: str | None = None,
    encrypts: bool = True,
    rsa: bool = False,
) -> KeyPair:
    """Generate a key pair into files; ``faked_time`` (gpg's --faked-system-time) makes one that expired since."""
    passphrase = f"the passphrase of {name}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = KeyPair(folder / f"{name}.pub.asc", folder / f"{name}.sec.asc", folder / f"{name}.pass")
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as home:
        _agent_settings(home)
        gpg = [
            "gpg",
            "--homedir",
            home,
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            passphrase,
        ]
        if faked_time:
            gpg += ["--faked-system-time", faked_time]
        subkey = (_RSA if rsa else _SUBKEY) if encrypts else ""
        spec = _SPEC.format(email=f"{name}@example.com", expires=expires, passphrase=passphrase, subkey=subkey)
        subprocess.run([*gpg, "--full-generate-key"], input=spec.encode(), check=True, stderr=subprocess.DEVNULL)
        pair.public.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
        secret = subprocess.run([*gpg, "--armor", "--export-secret-keys"], check=True, capture_output=True).stdout
        [revocation] = Path(home, "openpgp-revocs.d").iterdir()
        pair.revocation.write_text(revocation.read_text().replace(":-----BEGIN", "-----BEGIN"))
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    pair.private.touch(mode=0o600)
    pair.private.write_bytes(secret)
    pair.passphrase_file.touch(mode=0o600)
    pair.passphrase_file.write_text(passphrase + "\n")
    return pair


def _agent_settings(home: str) -> None:
    Path(home, "gpg-agent.conf").write_text("s2k-count 65536\n")  # or it measures the machine, for seconds


@contextlib.contextmanager
def _home(pair: KeyPair, *files: Path, faked_time: str | None = None) -> Iterator[list[str]]:
    """A gpg home with these files; yields how to call gpg in it, with the pair's passphrase."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as home:
        _agent_settings(home)
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback"]
        gpg += ["--passphrase-file", str(pair.passphrase_file)]
        if faked_time:
            gpg += ["--faked-system-time", faked_time]
        try:
            for file in files:
                subprocess.run([*gpg, "--import", str(file)], check=True, capture_output=True)
            yield gpg
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def revoke(pair: KeyPair) -> Path:
    """The public key as everybody should have it once it was revoked."""
    path = pair.public.with_suffix(".revoked")
    with _home(pair, pair.public, pair.revocation) as gpg:
        path.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
    return path


def stock_sign(pair: KeyPair, data: bytes, *, faked_time: str | None = None, extended: bool = False) -> bytes:
    """Sign by stock gpg: at another time, or after the key's expiry was moved, which its public file does not know."""
    with _home(pair, pair.private, faked_time=faked_time) as gpg:
        if extended:
            listing = subprocess.run([*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True)
            name = next(line.split(":")[9] for line in listing.stdout.splitlines() if line.startswith("fpr"))
            subprocess.run([*gpg, "--quick-set-expire", name, "0"], check=True, capture_output=True)
        return subprocess.run([*gpg, "--detach-sign"], input=data, check=True, capture_output=True).stdout

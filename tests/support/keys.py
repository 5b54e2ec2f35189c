"""Real GPG keys, made by stock gpg."""

from __future__ import annotations

import subprocess
import tempfile
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


@dataclass(frozen=True)
class KeyPair:
    public: Path
    private: Path
    passphrase_file: Path


def make_key(
    folder: Path, name: str, *, expires: str = "2y", faked_time: str | None = None, encrypts: bool = True
) -> KeyPair:
    """Generate a key pair into files; ``faked_time`` (gpg's --faked-system-time) makes one that expired since."""
    passphrase = f"the passphrase of {name}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = KeyPair(folder / f"{name}.pub.asc", folder / f"{name}.sec.asc", folder / f"{name}.pass")
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as home:
        Path(home, "gpg-agent.conf").write_text("s2k-count 65536\n")  # or it measures the machine, for seconds
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
        subkey = _SUBKEY if encrypts else ""
        spec = _SPEC.format(email=f"{name}@example.com", expires=expires, passphrase=passphrase, subkey=subkey)
        subprocess.run([*gpg, "--full-generate-key"], input=spec.encode(), check=True, stderr=subprocess.DEVNULL)
        pair.public.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
        secret = subprocess.run([*gpg, "--armor", "--export-secret-keys"], check=True, capture_output=True).stdout
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    pair.private.touch(mode=0o600)
    pair.private.write_bytes(secret)
    pair.passphrase_file.touch(mode=0o600)
    pair.passphrase_file.write_text(passphrase + "\n")
    return pair

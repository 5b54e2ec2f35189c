"""The GPG key pair of the demo's backups: public key, protected secret key, its passphrase, fingerprint."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.layout import write_private

PARAMETERS = """\
Key-Type: eddsa
Key-Curve: ed25519
Key-Usage: sign
Subkey-Type: ecdh
Subkey-Curve: cv25519
Subkey-Usage: encrypt
Name-Real: StreamFlix demo backups
Name-Email: backup@streamflix.example
Expire-Date: 2y
Passphrase: {passphrase}
%commit
"""


@contextmanager
def private_home() -> Iterator[list[str]]:
    """The start of a gpg command with an empty home of its own, whose agent ends with it.

    In the short system temporary folder: gpg's agent socket must fit into 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        try:
            yield ["gpg", "--homedir", home, "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def make_key_pair(folder: Path, passphrase: str) -> None:
    """Make ``backup.pub.asc``, ``backup.sec.asc``, ``passphrase`` and ``fingerprint`` in ``folder``, once."""
    marker = folder / "fingerprint"
    if marker.exists():
        return
    write_private(folder / "passphrase", passphrase + "\n")
    with private_home() as gpg:
        request = PARAMETERS.format(passphrase=passphrase)
        subprocess.run([*gpg, "--full-generate-key"], input=request, text=True, check=True)
        listing = subprocess.run([*gpg, "--list-keys", "--with-colons"], capture_output=True, text=True, check=True)
        fingerprint = next(line.split(":")[9] for line in listing.stdout.splitlines() if line.startswith("fpr:"))
        export = ["--passphrase-file", str(folder / "passphrase"), "--armor"]
        for option, name in (("--export", "backup.pub.asc"), ("--export-secret-keys", "backup.sec.asc")):
            key = subprocess.run([*gpg, *export, option, fingerprint], capture_output=True, text=True, check=True)
            write_private(folder / name, key.stdout)
    write_private(marker, fingerprint + "\n")

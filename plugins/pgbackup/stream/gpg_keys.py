"""Key files as stock gpg lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgbackup.domain.errors import ProgramFailed, UnfitError
from pgbackup.domain.ports import Runner
from pgbackup.stream.gpg_home import gpg, new_home

Use = Literal["e", "s"]
_PRIMARY = frozenset({"pub", "sec"})
_KEYS = frozenset({*_PRIMARY, "sub", "ssb"})


@dataclass(frozen=True)
class PublicKey:
    """A key file. ``expires`` in seconds since 1970, None for never; ``ids`` are those of its keys that encrypt."""

    path: Path
    fingerprint: str
    expires: int | None
    usable: bool
    ids: tuple[str, ...] = ()


def read_key(runner: Runner, path: Path, *, setting: str, use: Use = "e") -> PublicKey:
    """Read a public or secret key file; raises UnfitError when it is missing or none."""
    if not path.is_file():
        what = "unknown recipient: its public key file" if setting == "encryption.recipients" else "a key file"
        raise UnfitError(f"{what} is missing", detail=str(path), hint=f"see {setting}")
    with new_home() as home:
        try:
            output, _ = runner.run(gpg(home, "--with-colons", "--show-keys", str(path)))
        except ProgramFailed as error:
            raise UnfitError(
                f"{path} is not a public key file", detail=error.detail, hint="gpg --armor --export WHO > FILE"
            ) from None
    return parse_public_key(path, output.decode(errors="replace").splitlines(), use=use)


def parse_public_key(path: Path, lines: Sequence[str], *, use: Use = "e") -> PublicKey:
    """Read gpg's --with-colons listing: field 7 is the expiry, field 12 the capabilities (E: the key can encrypt)."""
    rows = [line.split(":") for line in lines]
    primary = next((row for row in rows if row[0] in _PRIMARY), None)
    fingerprint = next((row[9] for row in rows if row[0] == "fpr"), None)
    if primary is None or fingerprint is None:
        raise UnfitError(f"{path} holds no public key", hint="gpg --armor --export WHO > FILE")
    fitting = [row for row in rows if row[0] in _KEYS and use in row[11]]
    expiries = [int(row[6]) for row in (primary, *fitting[-1:]) if row[6]]
    return PublicKey(
        path,
        fingerprint,
        min(expiries, default=None),
        primary[1] != "r" and (use.upper() in primary[11] or bool(fitting)),
        tuple(row[4] for row in fitting),
    )

"""The old files: found, compared with the checksums beside them, decrypted where they are encrypted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path

from pgbackup.domain.errors import ConfigurationError, ProgramFailed, RefusedError, UnfitError, WrongKeyError
from pgbackup.domain.ports import Site
from pgbackup.scratch import private_folder

ENCRYPTED = ".gpg"
_PATTERNS = ("*.dump", f"*.dump{ENCRYPTED}")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class OldFile:
    """An old file that can be read: ``plain`` is itself or its decrypted copy, whose SHA-256 is ``digest``."""

    path: Path
    plain: Path
    digest: str


def find_dumps(places: Sequence[Path]) -> tuple[Path, ...]:
    """Return files as they are named, and the dumps that lie in folders; ConfigurationError: there are none."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for pattern in _PATTERNS for path in place.glob(pattern) if path.is_file())
        elif place.is_file():
            found.append(place)
        else:
            raise ConfigurationError("no such file or folder", detail=str(place))
    if not found:
        raise ConfigurationError(
            f"no dumps in {', '.join(map(str, places))}", hint=f"they are called {' or '.join(_PATTERNS)}"
        )
    return tuple(found)


@contextlib.contextmanager
def opened(site: Site, path: Path) -> Iterator[OldFile]:
    """Read an old file whole and yield what it holds; a decrypted copy is gone when the block ends.

    Raises RefusedError for one that is not what the checksum beside it says, or does not decrypt; WrongKeyError when
    none of our private keys opens it.
    """
    digest = _checked(path)
    if path.suffix != ENCRYPTED:
        yield OldFile(path, path, digest)
        return
    with private_folder(site.spool) as folder, site.keyring.opened() as filters:
        if not filters:
            raise UnfitError(
                f"{path.name} is encrypted, and encryption is off here", hint="see encryption.private_keys"
            )
        plain = folder / path.stem
        try:
            with path.open("rb") as source, os.fdopen(_created(plain), "wb") as sink:
                piped = site.runner.pipe(
                    source, through=filters, sink=sink, progress=lambda count: site.progress(path.name, count)
                )
        except ProgramFailed as error:
            raise _not_decrypted(path, error) from None
        yield OldFile(path, plain, piped.sink.sha256)


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _not_decrypted(path: Path, error: ProgramFailed) -> Exception:
    if error.by_machine:
        return error
    if "No secret key" in error.stderr:
        return WrongKeyError(
            f"none of our private keys opens {path.name}",
            detail=error.detail,
            hint="name the private key that it was encrypted for in encryption.private_keys",
        )
    return RefusedError(f"{path.name} does not decrypt", detail=error.detail)


def _checked(path: Path) -> str:
    """Return a file's SHA-256; raises RefusedError when a checksum beside it says otherwise."""
    digests = {"sha256": sha256(usedforsecurity=False), "md5": md5(usedforsecurity=False)}
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                for digest in digests.values():
                    digest.update(chunk)
        for name, digest in digests.items():
            beside = path.with_name(f"{path.name}.{name}")
            if beside.exists() and beside.read_text(errors="replace").split()[:1] != [digest.hexdigest()]:
                raise RefusedError(f"{path.name} is damaged", detail=f"it does not match {beside.name}")
    except OSError as error:
        raise UnfitError(f"cannot read {path}", detail=error.strerror) from None
    return digests["sha256"].hexdigest()

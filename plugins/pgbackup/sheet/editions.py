"""Editions of the sheet: ``recovery/<stamp>-<digest>/``, each whole by itself, written when something has changed.

The name ends in a digest of what is in it before encryption: the newest one that is the same is not written again.
SHA256SUMS comes last, and makes an edition one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from io import BytesIO

from pgbackup.domain.errors import BusyError, PgBackupError, RefusedError
from pgbackup.domain.ids import RECOVERY, SIGNATURE, SUMS
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.sums import format_sums, parse_sums
from pgbackup.sheet.text import sheet_text

log = logging.getLogger(__name__)

KEPT = 10
"""Editions that a repository keeps."""

_SHEET = "RECOVERY.md"
_PROTOCOL = "protocol.yaml"
_NAME = re.compile(r"\d{8}_\d{6}-[0-9a-f]{16}")


@dataclass(frozen=True)
class Written:
    """The newest edition in a repository; ``fresh``: it was written just now."""

    repository: str
    edition: str
    fresh: bool


def write_sheet(site: Site, repository: str, protocol: bytes) -> Written:
    """Bring a repository the sheet, the scripts, and ``protocol`` (the text of protocol.yaml) sealed to all recipients.

    Raises UnavailableError when the repository does not answer, UnfitError when a recipient's key cannot be used.
    """
    store = site.repositories[repository]
    recipients = site.keyring.recipients()
    files = {_SHEET: sheet_text(site).encode(), **_scripts()}
    digest = _digest({**files, _PROTOCOL: protocol, "recipients": " ".join(recipients).encode()})
    known = editions(store)
    if known and known[-1].endswith(f"-{digest}"):
        return Written(repository, known[-1], fresh=False)
    edition = f"{site.clock():%Y%m%d_%H%M%S}-{digest}"
    _store(site, store, edition, {**files, f"{_PROTOCOL}{site.keyring.suffix}": _sealed(site, protocol)})
    log.info("the recovery sheet in %s is %s%s", repository, RECOVERY, edition)
    _prune(store)
    return Written(repository, edition, fresh=True)


def write_sheets(
    site: Site, repositories: Iterable[str], protocol: bytes
) -> tuple[tuple[Written, ...], tuple[PgBackupError, ...]]:
    """Write the sheet to several repositories; return where it is now, and what went wrong with the others."""
    written: list[Written] = []
    errors: list[PgBackupError] = []
    for repository in repositories:
        try:
            written.append(write_sheet(site, repository, protocol))
        except PgBackupError as error:
            log.error("%s has no new recovery sheet: %s", repository, error)  # noqa: TRY400 - returned
            errors.append(error)
    return tuple(written), tuple(errors)


def editions(store: Store) -> tuple[str, ...]:
    """Return the names of the editions of a repository, the newest last."""
    return tuple(sorted(name for name, names in _found(store).items() if SUMS in names))


def read_sheet(site: Site, store: Store) -> str:
    """Return the text of the newest sheet.

    Raises RefusedError when there is none, it is damaged, or not signed where the configuration asks for it.
    """
    names = editions(store)
    if not names:
        raise RefusedError(f"{store.name} holds no recovery sheet", hint="`pgbackup sheet write` writes one")
    prefix = f"{RECOVERY}{names[-1]}/"
    listed = store.read(prefix + SUMS)
    signed = any(store.list(prefix + SIGNATURE))
    site.keyring.check_signature(listed, store.read(prefix + SIGNATURE) if signed else None)
    text = store.read(prefix + _SHEET)
    sums = parse_sums(listed, source=prefix + SUMS)
    if sha256(text).hexdigest() != sums.get(_SHEET):
        raise RefusedError(f"{prefix}{_SHEET} does not match its checksum", hint="see the one of another repository")
    return text.decode()


def _scripts() -> dict[str, bytes]:
    folder = resources.files("pgbackup.sheet").joinpath("scripts")
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith((".sh", ".sql", ".md"))}


def _digest(files: Mapping[str, bytes]) -> str:
    return sha256(format_sums({name: sha256(text).hexdigest() for name, text in files.items()})).hexdigest()[:16]


def _sealed(site: Site, text: bytes) -> bytes:
    sink = _Memory()
    site.runner.pipe(BytesIO(text), through=site.keyring.seal(), sink=sink)
    return bytes(sink.data)


def _store(site: Site, store: Store, edition: str, files: Mapping[str, bytes]) -> None:
    prefix = f"{RECOVERY}{edition}/"
    sums = format_sums({name: sha256(text).hexdigest() for name, text in files.items()})
    signature = site.keyring.sign(sums)
    signed = {SIGNATURE: signature} if signature else {}
    try:
        for name, text in {**files, **signed, SUMS: sums}.items():
            with store.create(prefix + name) as sink:
                sink.write(text)
    except RefusedError as error:
        if not any(store.list(prefix)):
            raise
        raise BusyError(f"another process writes the recovery sheet to {store.name}", detail=error.message) from None


def _found(store: Store) -> dict[str, set[str]]:
    """Return the files of each edition, whole or not."""
    found: dict[str, set[str]] = {}
    for info in store.list(RECOVERY):
        edition, _, name = info.key.removeprefix(RECOVERY).partition("/")
        if _NAME.fullmatch(edition):
            found.setdefault(edition, set()).add(name)
    return found


def _prune(store: Store) -> None:
    """Remove what is older than the newest editions, and remains of killed writers; the storage may refuse (a lock)."""
    found = _found(store)
    whole = sorted(name for name, names in found.items() if SUMS in names)
    kept = {*whole[-KEPT:], *(name for name in found if name > whole[-1])}
    for edition in sorted(found.keys() - kept):
        try:
            for name in _sums_first(found[edition]):
                store.delete(f"{RECOVERY}{edition}/{name}")
        except PgBackupError as error:
            log.warning("an old recovery sheet stays in %s: %s", store.name, error)


def _sums_first(names: set[str]) -> Iterator[str]:
    return iter(sorted(names, key=lambda name: (name != SUMS, name)))


class _Memory:
    """A sink for what is small."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

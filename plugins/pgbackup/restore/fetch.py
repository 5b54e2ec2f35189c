"""Bring one copy of a backup into a private folder: every byte checked on the way, decrypted, never trusted early."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnavailableError, WrongKeyError
from pgbackup.domain.ids import KEY_FILE, MANIFEST, SIGNATURE, SUMS, BackupId
from pgbackup.domain.manifest import File, Manifest, parse_manifest
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.sums import parse_sums
from pgbackup.postgres import dump

log = logging.getLogger(__name__)


class DamagedError(RefusedError):
    """What a repository holds is not what was stored."""


@dataclass(frozen=True)
class Description:
    """A backup's manifest and checksums as one repository holds them, checked against each other."""

    backup_id: BackupId
    manifest: Manifest
    digests: dict[str, str]


def describe_copy(site: Site, store: Store, backup_id: BackupId) -> Description:
    """Read SHA256SUMS and the manifest.

    Raises RefusedError when the backup is not there, is damaged, or is not signed where the configuration asks for it.
    """
    digests = _digests(site, store, backup_id)
    text = store.read(backup_id.key(MANIFEST))
    if sha256(text).hexdigest() != digests.get(MANIFEST):
        raise DamagedError(f"{backup_id}/{MANIFEST} does not match its checksum", hint="verify another copy")
    manifest = parse_manifest(text, source=f"{backup_id}/{MANIFEST}")
    stored = {file.name: file.stored_sha256 for file in manifest.files}
    listed = {name: digest for name, digest in digests.items() if name != MANIFEST}
    if manifest.id != str(backup_id) or stored != listed:
        raise DamagedError(f"manifest and checksums of {backup_id} contradict each other", hint="verify another copy")
    return Description(backup_id, manifest, digests)


def _digests(site: Site, store: Store, backup_id: BackupId) -> dict[str, str]:
    try:
        text = store.read(backup_id.key(SUMS))
    except RefusedError as error:
        if any(store.list(backup_id.key(""))):
            raise DamagedError(
                f"{backup_id} is being deleted, or incomplete", detail=error.message, hint="use another copy, or backup"
            ) from None
        raise
    check_signed(site, store, backup_id, text)
    try:
        return parse_sums(text, source=f"{backup_id}/{SUMS}")
    except RefusedError as error:
        raise DamagedError(error.message, detail=error.detail, hint="verify another copy of this backup") from None


def check_signed(site: Site, store: Store, backup_id: BackupId, text: bytes) -> None:
    """Raise DamagedError unless this SHA256SUMS of a backup is signed, where the configuration asks for it.

    What it lists cannot be exchanged then: the manifest, and through its id that the backup is this one.
    """
    if not site.settings.encryption.verify_keys:
        return
    try:
        signature = store.read(backup_id.key(SIGNATURE))
    except RefusedError:
        signature = None
    try:
        site.keyring.check_signature(text, signature)
    except RefusedError as error:
        raise DamagedError(f"{backup_id}/{SUMS}: {error.message}", detail=error.detail, hint=error.hint) from None


def key_files(store: Store, backup_id: BackupId) -> tuple[str, ...]:
    """Return the names of a backup's key files as they are there, the newest first."""
    names = (found.key.removeprefix(backup_id.key("")) for found in store.list(backup_id.key("key.")))
    numbers = {name: int(match[1]) for name in names if (match := KEY_FILE.fullmatch(name))}
    return tuple(sorted(numbers, key=lambda name: -numbers[name]))


def open_passphrase(site: Site, store: Store, description: Description) -> bytes:
    """Return the backup's passphrase, from the newest of its key files that opens.

    Raises WrongKeyError when no private key of ours is among the recipients, DamagedError when one is and still
    nothing opens.
    """
    manifest = description.manifest
    if not manifest.encrypted:
        return b""
    there = key_files(store, description.backup_id)
    listed = {name for name in description.digests if KEY_FILE.fullmatch(name)}
    failures: dict[str, PgBackupError] = {}
    for name in (*there, *sorted(listed.difference(there))):
        try:
            return open_key_file(site, store, description, name)
        except (WrongKeyError, RefusedError) as error:
            failures[name] = error
    if not failures:
        raise DamagedError(f"{manifest.id} is encrypted but holds no key file")
    detail = "\n".join(f"{name}: {error.message}: {error.detail or ''}" for name, error in failures.items())
    damaged = any(isinstance(failures[name], RefusedError) for name in listed)
    if damaged or set(site.keyring.identities()) & set(manifest.recipients):
        raise DamagedError(f"no key file of {manifest.id} opens", detail=detail, hint="verify another copy")
    raise WrongKeyError(
        f"none of our private keys opens {manifest.id}",
        detail=detail,
        hint="`pgbackup keys report` shows whose do: name one of them in encryption.private_keys",
    )


def open_key_file(site: Site, store: Store, description: Description, name: str) -> bytes:
    """Unwrap one key file. One that SHA256SUMS does not list was added later, by whoever could: it has to prove itself,
    so that a forged one hides none of the others.

    Raises WrongKeyError when it is for none of our private keys, RefusedError when it is damaged or forged.
    """
    wrapped = store.read(description.backup_id.key(name))
    if name in description.digests:
        if sha256(wrapped).hexdigest() != description.digests[name]:
            raise DamagedError("does not match its checksum")
        return site.keyring.unwrap(wrapped)
    passphrase = site.keyring.unwrap(wrapped)
    try_passphrase(site, store, description, passphrase)
    return passphrase


def try_passphrase(site: Site, store: Store, description: Description, passphrase: bytes) -> str:
    """Decrypt a backup's smallest file to nowhere; return its name. Raises DamagedError when that fails."""
    data = (file for file in description.manifest.files if not KEY_FILE.fullmatch(file.name))
    smallest = min(data, key=lambda file: file.stored_bytes)
    filters = site.keyring.decrypt(passphrase) if description.manifest.encrypted else ()
    try:
        with store.open(description.backup_id.key(smallest.name)) as source:
            piped = site.runner.pipe(source, through=filters, sink=_Nowhere())
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise DamagedError("holds another passphrase", detail=f"{smallest.name} does not decrypt") from None
    if piped.source.sha256 != smallest.stored_sha256:
        raise DamagedError(f"{smallest.name} does not match its checksum", hint="verify another copy of this backup")
    return smallest.name


def fetch_file(site: Site, store: Store, description: Description, file: File, passphrase: bytes, into: Path) -> Path:
    """Bring one file: stored and plain checksum compared; a directory dump is unpacked. Return its path."""
    manifest = description.manifest
    suffix = site.keyring.suffix if manifest.encrypted else ""
    plain = into / file.name.removesuffix(suffix)
    filters: tuple[Command, ...] = site.keyring.decrypt(passphrase) if manifest.encrypted else ()
    with contextlib.ExitStack() as cleanup:
        unfinished = plain.with_name(f".{plain.name}")
        cleanup.callback(unfinished.unlink, missing_ok=True)
        try:
            with store.open(description.backup_id.key(file.name)) as source, _spool_file(unfinished) as sink:
                piped = site.runner.pipe(
                    source, through=filters, sink=sink, progress=lambda count: site.progress(file.name, count)
                )
        except ProgramFailed as error:
            if error.by_signal:
                raise
            raise DamagedError(f"{file.name} does not decrypt", detail=error.detail) from None
        if (piped.source.bytes, piped.source.sha256) != (file.stored_bytes, file.stored_sha256):
            raise DamagedError(f"{file.name} does not match its checksum", hint="verify another copy of this backup")
        if (piped.sink.bytes, piped.sink.sha256) != (file.plain_bytes, file.plain_sha256):
            raise DamagedError(f"{file.name} decrypts to something else than was encrypted")
        if plain.name.endswith(".dir.tar"):
            return _unpack(site, unfinished, plain.with_suffix(""))
        unfinished.replace(plain)
    return plain


def check_stored(store: Store, description: Description) -> int:
    """Compare every stored object with SHA256SUMS, decrypting nothing; return the bytes read."""
    total = 0
    for file in description.manifest.files:
        digest = sha256(usedforsecurity=False)
        count = 0
        with store.open(description.backup_id.key(file.name)) as source:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                count += len(chunk)
        if (count, digest.hexdigest()) != (file.stored_bytes, file.stored_sha256):
            raise DamagedError(f"{file.name} does not match its checksum", hint="verify another copy of this backup")
        total += count
    return total


def _unpack(site: Site, archive: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    try:
        with archive.open("rb", buffering=0) as source:
            site.runner.pipe(source, through=(dump.unpack(folder),), sink=_Nowhere())
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise DamagedError(f"{archive.name} does not unpack", detail=error.detail) from None
    return folder


class _Nowhere:
    """A sink that forgets."""

    def write(self, data: bytes | memoryview) -> None:
        del data


@contextlib.contextmanager
def _spool_file(path: Path) -> Iterator[_Spooled]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield _Spooled(file, path)
    except OSError as error:
        raise _spool_failure(path, error) from error


class _Spooled:
    """A file of the spool whose errors are the spool's, not the backup's."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _spool_failure(self._path, error) from error


def _spool_failure(path: Path, error: OSError) -> PgBackupError:
    return UnavailableError(
        f"cannot write to the spool: {path.parent}",
        detail=error.strerror,
        hint="a verification needs space for the decrypted files and the restored databases: see paths.spool",
    )

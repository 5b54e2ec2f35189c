"""Write one backup's files into the local repository, encrypted, measured in passing, committed by SHA256SUMS."""

from __future__ import annotations

import logging
import time
from hashlib import sha256
from io import BytesIO

from pgbackup.domain.ids import MANIFEST, SIGNATURE, SUMS, BackupId
from pgbackup.domain.manifest import File, Manifest
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Readable, Site
from pgbackup.domain.sums import format_sums

log = logging.getLogger(__name__)


def try_signing(site: Site) -> None:
    """Raise what signing raises, before anything is dumped, and for a signature that would not be accepted here."""
    if signature := site.keyring.sign(b""):
        site.keyring.check_signature(b"", signature)


class BackupWriter:
    """One backup under way: its passphrase, the recipients it is for, the files stored so far."""

    def __init__(self, site: Site, backup_id: BackupId) -> None:
        self._site = site
        self._id = backup_id
        self._files: list[File] = []
        self.recipients = site.keyring.recipients()
        try_signing(site)
        self._passphrase = site.keyring.new_passphrase()
        if site.keyring.suffix:
            wrapped = site.keyring.wrap(self._passphrase)
            name = f"key.1{site.keyring.suffix}"
            self._plain(name, wrapped)
            digest = sha256(wrapped).hexdigest()
            self._files.append(
                File(name=name, stored_bytes=len(wrapped), stored_sha256=digest, plain_bytes=0, plain_sha256="")
            )

    @property
    def files(self) -> tuple[File, ...]:
        """What is stored so far."""
        return tuple(self._files)

    def stream(self, name: str, source: Command | Readable, *, through: tuple[Command, ...] = ()) -> str:
        """Store what a program prints or a reader gives, through filters of the caller's; return the stored name."""
        stored_name = name + self._site.keyring.suffix
        started = time.monotonic()
        with self._site.local.create(self._id.key(stored_name)) as sink:
            piped = self._site.runner.pipe(
                source,
                through=(*through, *self._site.keyring.encrypt(self._passphrase)),
                sink=sink,
                progress=lambda count: self._site.progress(name, count),
            )
        self._files.append(
            File(
                name=stored_name,
                stored_bytes=piped.sink.bytes,
                stored_sha256=piped.sink.sha256,
                plain_bytes=piped.source.bytes,
                plain_sha256=piped.source.sha256,
            )
        )
        seconds = max(time.monotonic() - started, 0.001)
        rate = piped.source.bytes / 1e6 / seconds
        log.info("%s: %d bytes in %.1f s (%.1f MB/s)", stored_name, piped.sink.bytes, seconds, rate)
        return stored_name

    def put(self, name: str, data: bytes) -> str:
        """Store something small."""
        return self.stream(name, BytesIO(data))

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, then the checksums over everything: from then on it is a backup. Their signature, where
        there is a signing key, comes before them.
        """
        text = manifest.to_json()
        self._plain(MANIFEST, text)
        digests = {file.name: file.stored_sha256 for file in self._files}
        digests[MANIFEST] = sha256(text).hexdigest()
        sums = format_sums(digests)
        if signature := self._site.keyring.sign(sums):
            self._plain(SIGNATURE, signature)
        self._plain(SUMS, sums)

    def _plain(self, name: str, data: bytes) -> None:
        with self._site.local.create(self._id.key(name)) as sink:
            sink.write(data)

"""Tamper with a stored backup the way a clever disk would: with checksums that fit again."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.manifest import Manifest, parse_manifest
from pgbackup.domain.ports import Site
from pgbackup.domain.sums import format_sums


def folder_of(site: Site, backup_id: str) -> Path:
    return site.settings.paths.backups / BackupId.parse(backup_id).directory


def manifest_of(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST).read_bytes(), source=MANIFEST)


def put_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, and SHA256SUMS with it."""
    (folder / MANIFEST).write_bytes(manifest.to_json())
    digests = {file.name: file.stored_sha256 for file in manifest.files}
    digests[MANIFEST] = sha256(manifest.to_json()).hexdigest()
    (folder / SUMS).write_bytes(format_sums(digests))


def restate(folder: Path, *, plain: bool) -> None:
    """Make manifest and SHA256SUMS agree with the files as they are now; where none is encrypted, in full."""
    manifest = manifest_of(folder)
    files = []
    for file in manifest.files:
        data = (folder / file.name).read_bytes()
        change: dict[str, object] = {"stored_bytes": len(data), "stored_sha256": sha256(data).hexdigest()}
        if plain:
            change |= {"plain_bytes": len(data), "plain_sha256": sha256(data).hexdigest()}
        files.append(file.model_copy(update=change))
    put_manifest(folder, manifest.model_copy(update={"files": tuple(files)}))


def flip(path: Path, offset: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def copy_backup(site: Site, backup_id: str) -> Path:
    """Return an untouched copy of a backup's folder, to put back what a test changes."""
    folder = folder_of(site, backup_id)
    copy = site.settings.paths.backups.parent / f"untouched-{backup_id}"
    return Path(shutil.copytree(folder, copy))

"""Adopt one dump: read it to its end, store it as a full backup of our layout, record it.

What is known of its source is what the dump names; the manifest says so, and no verification claims more.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgbackup.adopt.files import OldFile, opened
from pgbackup.adopt.read import Dump, read_dump
from pgbackup.capture.session import holding
from pgbackup.capture.writer import BackupWriter
from pgbackup.domain.errors import BusyError, PgBackupError, RefusedError
from pgbackup.domain.ids import SUMS, BackupId, encode_database
from pgbackup.domain.manifest import ADOPTED, WITHOUT_GLOBALS, Manifest, Server
from pgbackup.domain.model import Kind
from pgbackup.domain.ports import Site
from pgbackup.postgres.dump_file import Header, read_header
from pgbackup.restore.fetch import describe_copy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adopted:
    """A dump that is a backup of ours now; ``known``: it was one before."""

    path: Path
    manifest: Manifest
    known: bool


def adopt(
    site: Site,
    cluster: str,
    path: Path,
    *,
    database: str | None = None,
    taken_at: datetime | None = None,
    globals_file: Path | None = None,
) -> Adopted:
    """Make a full backup of one dump in pg_dump's custom format; durable in the local repository when it returns.

    ``database``: dumps of others are refused. ``taken_at``: when it was taken, where the header's wall clock was not
    UTC. A dump that was adopted before is found again. Raises RefusedError for what is no whole dump, or cannot have
    the id of its moment; UnfitError when PostgreSQL's programs or the private key for it are not here; BusyError while
    another backup of the cluster runs. After any error nothing is left that looks like a backup.
    """
    site.settings.cluster(cluster)
    with opened(site, path) as old:
        header = read_header(old.plain, path.name)
        moment = taken_at or header.made_at
        _refuse(site, path, header, moment, database)
        backup_id = BackupId.at(cluster, moment, Kind.FULL)
        known = _known(site, backup_id, old)
        if known is None:
            dump = read_dump(site, old, header, globals_file)
            with holding(site, cluster) as held:
                return Adopted(path, _store(held, backup_id, moment, dump), known=False)
        with holding(site, cluster) as held:
            _record(held, known)
        return Adopted(path, known, known=True)


def _refuse(site: Site, path: Path, header: Header, moment: datetime, database: str | None) -> None:
    if database not in {None, header.database}:
        raise RefusedError(f"{path.name} is a dump of another database", detail=header.database)
    if moment > site.clock():
        raise RefusedError(
            f"{path.name} says that it was taken in the future",
            detail=f"{moment:%Y-%m-%d %H:%M:%S} UTC",
            hint="its header has the wall clock of the machine that dumped: say --taken-at",
        )


def _known(site: Site, backup_id: BackupId, old: OldFile) -> Manifest | None:
    """Return the backup that was made of this dump before; raises RefusedError when another has its id."""
    hint = "give it a moment of its own: --taken-at"
    if any(site.local.list(backup_id.key(SUMS))):
        manifest = describe_copy(site, site.local, backup_id).manifest
        if manifest.adopted and old.digest in {file.plain_sha256 for file in manifest.files}:
            return manifest
        raise RefusedError(f"there is another backup {backup_id}", detail=f"{old.path.name} would be it", hint=hint)
    recorded = site.catalog.backup(str(backup_id))
    if recorded is not None:
        raise RefusedError(f"the catalog has {backup_id} as {recorded.state}", detail=old.path.name, hint=hint)
    return None


def _store(site: Site, backup_id: BackupId, moment: datetime, dump: Dump) -> Manifest:
    """Write the backup and record it. A killed adoption is swept by whoever holds the cluster next, or recorded when
    the same dump comes again.
    """
    if _known(site, backup_id, dump.old) is not None:
        raise BusyError(f"{dump.old.path.name} has just been adopted by another process")
    try:
        manifest = _write(site, backup_id, moment, dump)
    except BaseException:
        with contextlib.suppress(PgBackupError):  # what fails here must not hide the first error
            site.local.clean(backup_id.directory)
        raise
    _record(site, manifest)
    log.info("%s is adopted as %s: %d bytes", dump.old.path, backup_id, manifest.stored_bytes)
    return manifest


def _write(site: Site, backup_id: BackupId, moment: datetime, dump: Dump) -> Manifest:
    writer = BackupWriter(site, backup_id)
    writer.put("globals.sql", dump.globals.text)
    with dump.old.plain.open("rb") as source:
        name = writer.stream(f"{encode_database(dump.header.database)}.dump", source)
    if dump.old.digest not in {file.plain_sha256 for file in writer.files}:
        raise BusyError(f"{dump.old.path.name} changes while it is read", hint="adopt it when it is complete")
    entry = dump.named.database.model_copy(update={"file": name, "bytes": dump.sql_bytes})
    manifest = Manifest(
        id=str(backup_id),
        kind=Kind.FULL,
        method=ADOPTED,
        cluster=backup_id.cluster,
        server=Server(
            system_identifier="",
            version=dump.header.version,
            version_text=dump.header.server_version,
            timeline=0,
            data_checksums=False,
            block_size=0,
        ),
        client_version=dump.header.client_version,
        started_at=moment,
        finished_at=moment,
        backup_time=moment,
        fingerprints=False,
        encrypted=bool(site.keyring.suffix),
        recipients=writer.recipients,
        roles=tuple(sorted(dump.globals.roles)),
        bootstrap_superuser=dump.globals.bootstrap,
        databases=(entry,),
        files=writer.files,
        not_included=(
            f"what the source was: adopted from {dump.old.path.name}",
            "other databases",
            *(() if dump.globals.complete else (WITHOUT_GLOBALS,)),
            *(f"rows of {table}" for table in dump.named.without_rows),
        ),
    )
    writer.commit(manifest)
    return manifest


def _record(site: Site, manifest: Manifest) -> None:
    """Record a committed backup, as old as it is; what the catalog knows already stays."""
    if site.catalog.backup(manifest.id) is None:
        started, owner = manifest.started_at, site.owner
        site.catalog.begin(manifest.id, cluster=manifest.cluster, kind=manifest.kind, owner=owner, now=started)
        site.catalog.captured(manifest, repository=site.local.name, now=site.clock())

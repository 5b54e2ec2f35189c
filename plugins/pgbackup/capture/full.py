"""The full backup: snapshots of all databases -> dump and fingerprints side by side -> manifest -> SHA256SUMS.

Nothing else takes what is in a directory without SHA256SUMS for a backup; the next run removes it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Literal

from pgbackup.capture.contents import ContentReader
from pgbackup.capture.moments import Moment, Moments, all_moments
from pgbackup.capture.session import Capture, capturing, holding
from pgbackup.capture.source import Source, opened_source
from pgbackup.capture.writer import BackupWriter
from pgbackup.domain.errors import BusyError, ProgramFailed
from pgbackup.domain.ids import encode_database
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import Kind
from pgbackup.domain.ports import Site
from pgbackup.postgres import dump
from pgbackup.scratch import make_private

_GLOBALS = "globals.sql"


def capture_full(site: Site, cluster: str) -> Manifest:
    """Back up every database and the globals of a cluster into the local repository.

    Returns once the backup is durable there and in the catalog. Raises BusyError while another backup of the cluster
    runs; after any error nothing is left that looks like a backup.
    """
    with holding(site, cluster) as held:
        return take_full(held, cluster)


def take_full(site: Site, cluster: str) -> Manifest:
    """Do the same for a cluster that the caller holds."""
    with (
        capturing(site, cluster, Kind.FULL) as capture,
        opened_source(site, cluster) as source,
        all_moments(source, site.runner) as moments,
    ):
        capture.manifest = dump_moments(site, source, capture, moments)
    return capture.manifest


def dump_moments(site: Site, source: Source, capture: Capture, moments: Moments) -> Manifest:
    """Dump each database at its moment, fingerprints beside it; commit; return the manifest."""
    writer = BackupWriter(site, capture.id)
    writer.put(_GLOBALS, moments.globals)
    dumper = _Dumper(site, source, writer, capture)
    entries = tuple(dumper.dump(moment) for moment in moments.databases)
    manifest = Manifest(
        id=str(capture.id),
        kind=Kind.FULL,
        cluster=capture.id.cluster,
        server=source.server,
        client_version=source.client_version,
        started_at=capture.started_at,
        finished_at=site.clock(),
        backup_time=min((moment.snapshot.moment for moment in moments.databases), default=capture.started_at),
        fingerprints=source.settings.fingerprints.enabled,
        encrypted=bool(site.keyring.suffix),
        recipients=writer.recipients,
        roles=moments.roles,
        bootstrap_superuser=moments.bootstrap_superuser,
        databases=entries,
        files=writer.files,
        not_included=("template databases", *(note for moment in moments.databases for note in moment.notes)),
    )
    writer.commit(manifest)
    return manifest


class _Dumper:
    """What the dumps of one backup share."""

    def __init__(self, site: Site, source: Source, writer: BackupWriter, capture: Capture) -> None:
        self._site = site
        self._source = source
        self._writer = writer
        self._spool = site.spool / str(capture.id)

    def dump(self, moment: Moment) -> Database:
        """Dump one database and fingerprint it beside the dump, in the same snapshot."""
        reader = ContentReader(
            self._source.parameters, moment.database, moment.snapshot, self._source.settings.fingerprints
        )
        with reader, _lock_waits(moment.database):
            name = self._store(moment)
            tables, large_objects = reader.result()
        layout: Literal["custom", "directory"] = "directory" if self._source.settings.full_backup.jobs > 1 else "custom"
        return moment.entry(file=name, layout=layout, tables=tables, large_objects=large_objects)

    def _store(self, moment: Moment) -> str:
        options = self._source.settings.full_backup
        command = partial(
            dump.dump_database,
            self._source.programs,
            self._source.access,
            moment.database,
            snapshot_id=moment.snapshot.id,
            compression=self._source.compression,
        )
        encoded = encode_database(moment.database)
        if options.jobs == 1:
            return self._writer.stream(f"{encoded}.dump", command())
        folder = self._spool / encoded
        make_private(folder.parent)
        try:
            self._site.runner.run(command(jobs=options.jobs, folder=folder))
            return self._writer.stream(f"{encoded}.dir.tar", dump.pack(folder))
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)


@contextlib.contextmanager
def _lock_waits(database: str) -> Iterator[None]:
    """Say what it means that pg_dump gets no lock although we hold the same one: somebody waits in between."""
    try:
        yield
    except ProgramFailed as error:
        if "LOCK TABLE" not in error.stderr:
            raise
        raise BusyError(
            f"pg_dump waits for tables of {database!r} behind somebody who wants them for himself",
            detail=error.detail,
            hint="TRUNCATE, ALTER TABLE or VACUUM FULL waits for the backup's lock; it goes through now",
        ) from None

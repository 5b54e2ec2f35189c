"""The full backup: snapshots of all databases -> dump and fingerprints side by side -> manifest -> SHA256SUMS.

Nothing else takes what is in a directory without SHA256SUMS for a backup; the next run removes it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256

from pgbackup.capture.contents import ContentReader
from pgbackup.domain.errors import BusyError, PgBackupError, UnfitError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId, encode_database
from pgbackup.domain.manifest import Database, File, Manifest, Sequence, Server, parse_manifest
from pgbackup.domain.model import Command, ConnectionParameters, Kind, Piped, State
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Cluster
from pgbackup.domain.sums import format_sums
from pgbackup.postgres import describe, dump
from pgbackup.postgres.connection import ProgramAccess, connect, program_access, server_errors
from pgbackup.postgres.programs import Programs, find_programs
from pgbackup.postgres.snapshot import Snapshot, locked_snapshot

log = logging.getLogger(__name__)

_GLOBALS = "globals.sql"
_GLOBALS_TRIES = 5


def capture_full(site: Site, cluster: str) -> Manifest:
    """Back up every database and the globals of a cluster into the local repository.

    Returns once the backup is durable there and in the catalog. Raises BusyError while another backup of the cluster
    runs; after any error nothing is left that looks like a backup.
    """
    settings = site.settings.cluster(cluster)
    with site.catalog.exclusive(cluster, purpose="backup"):
        sweep(site, cluster)
        backup_id = _new_id(site, cluster)
        site.catalog.begin(str(backup_id), cluster=cluster, kind=Kind.FULL, owner=site.owner, now=site.clock())
        log.info("backup %s starts", backup_id)
        try:
            with server_errors(cluster):
                manifest = _Capture(site, settings, backup_id, site.connections(cluster)).run()
        except BaseException as error:
            _abandon(site, backup_id, error)
            raise
        site.catalog.captured(manifest, repository=site.local.name, now=site.clock())
    seconds = (manifest.finished_at - manifest.started_at).total_seconds()
    log.info(
        "backup %s captured: %d bytes stored in %.1f s (%.1f MB/s)",
        backup_id,
        manifest.stored_bytes,
        seconds,
        manifest.stored_bytes / 1e6 / max(seconds, 0.001),
    )
    return manifest


def sweep(site: Site, cluster: str) -> None:
    """Settle what killed runs of this cluster left: a committed backup is recorded, everything else removed.

    Only to be called while the cluster is held, so that no run that it meets is alive.
    """
    running = {backup.id for backup in site.catalog.backups(cluster, states=frozenset({State.RUNNING}))}
    stored: dict[str, bool] = {}
    for found in site.local.list(f"{Kind.FULL.value}/{cluster}_"):
        name = found.key.split("/")[1]
        stored[name] = stored.get(name, False) or found.key.endswith(f"/{SUMS}")
    for name in sorted(running | stored.keys()):
        with contextlib.suppress(PgBackupError):
            if BackupId.parse(name).cluster != cluster:
                continue
        if stored.get(name):
            if name in running:
                text = site.local.read(f"{Kind.FULL.value}/{name}/{MANIFEST}")
                site.catalog.captured(parse_manifest(text, source=name), repository=site.local.name, now=site.clock())
                log.warning("backup %s was complete when its run was killed: recorded", name)
        else:
            site.local.clean(f"{Kind.FULL.value}/{name}")
            shutil.rmtree(site.spool / name, ignore_errors=True)
            if name in running:
                site.catalog.failed(name, error="the run was killed", now=site.clock())
            log.warning("removed what a killed run left of %s", name)


def _new_id(site: Site, cluster: str) -> BackupId:
    moment = site.clock()
    while True:
        backup_id = BackupId.at(cluster, moment, Kind.FULL)
        if site.catalog.backup(str(backup_id)) is None and not any(site.local.list(backup_id.key(""))):
            return backup_id
        moment += timedelta(seconds=1)  # ids are unique within a second


def _abandon(site: Site, backup_id: BackupId, error: BaseException) -> None:
    """Leave nothing half-published; whatever fails here must not hide the first error."""
    log.error("backup %s failed: %s", backup_id, error)
    with contextlib.suppress(PgBackupError):
        site.local.clean(backup_id.directory)
    shutil.rmtree(site.spool / str(backup_id), ignore_errors=True)
    with contextlib.suppress(PgBackupError):
        site.catalog.failed(str(backup_id), error=str(error) or type(error).__name__, now=site.clock())


@dataclass
class _Moment:
    """What was read at or before one database's snapshot."""

    database: str
    sequences: tuple[Sequence, ...]
    snapshot: Snapshot


class _Capture:
    """One run: the steps share the backup's passphrase, its files so far, and the way to the server."""

    def __init__(self, site: Site, settings: Cluster, backup_id: BackupId, parameters: ConnectionParameters) -> None:
        self._site = site
        self._settings = settings
        self._id = backup_id
        self._parameters = parameters
        self._programs: Programs
        self._passphrase = site.keyring.new_passphrase()
        self._files: list[File] = []

    def run(self) -> Manifest:
        """Take every step, in order; the directory is a backup when the last one returns."""
        started = self._site.clock()
        recipients = self._site.keyring.recipients()
        with connect(self._parameters) as connection:
            server = describe.server(connection)
            roles, bootstrap = describe.roles(connection)
            databases = _chosen(describe.databases(connection), self._settings)
        self._programs, client_version = fitting_programs(self._site, server)
        self._store_key()
        with program_access(self._parameters) as access, contextlib.ExitStack() as held:
            moments, globals_text = self._snapshots(access, databases, held)
            self._store_bytes(_GLOBALS, globals_text)
            entries = [self._database(access, moment) for moment in moments]
            notes = [note for moment in moments for note in _not_included(moment)]
        manifest = Manifest(
            id=str(self._id),
            kind=Kind.FULL,
            cluster=self._id.cluster,
            server=server,
            client_version=client_version,
            started_at=started,
            finished_at=self._site.clock(),
            backup_time=min((moment.snapshot.moment for moment in moments), default=started),
            fingerprints=self._settings.fingerprints.enabled,
            encrypted=bool(self._site.keyring.suffix),
            recipients=recipients,
            roles=roles,
            bootstrap_superuser=bootstrap,
            databases=tuple(entries),
            files=tuple(self._files),
            not_included=("template databases", *notes),
        )
        self._commit(manifest)
        return manifest

    def _snapshots(
        self, access: ProgramAccess, databases: tuple[str, ...], held: contextlib.ExitStack
    ) -> tuple[list[_Moment], bytes]:
        """Take the snapshots of all databases within one unchanged state of the globals, which have no snapshot."""
        for _ in range(_GLOBALS_TRIES):
            attempt = contextlib.ExitStack()
            with attempt:
                before = self._globals(access)
                moments = [attempt.enter_context(self._moment(database)) for database in databases]
                after = self._globals(access)
                if dump.same_globals(before, after):
                    held.enter_context(attempt.pop_all())
                    return moments, after
            log.warning("roles or tablespaces changed while the snapshots were taken: once more")
        raise BusyError("roles or tablespaces keep changing", hint="what creates and drops roles this fast?")

    def _globals(self, access: ProgramAccess) -> bytes:
        maintenance = self._parameters.keywords.get("dbname", "postgres")
        output, _ = self._site.runner.run(dump.dump_globals(self._programs, access, maintenance))
        return output

    @contextlib.contextmanager
    def _moment(self, database: str) -> Iterator[_Moment]:
        with connect(self._parameters, database) as connection:
            sequences = describe.sequences(connection)  # before the snapshot: a restored one may not be behind these
        with locked_snapshot(
            self._parameters, database, lock_timeout=self._settings.full_backup.lock_timeout
        ) as snapshot:
            yield _Moment(database, sequences, snapshot)

    def _database(self, access: ProgramAccess, moment: _Moment) -> Database:
        """Dump one database and fingerprint it beside the dump, in the same snapshot."""
        snapshot = moment.snapshot
        with ContentReader(self._parameters, moment.database, snapshot, self._settings.fingerprints) as reader:
            name = self._dump(access, moment)
            contents, large_objects = reader.result()
        row = describe.rows(snapshot.connection, "database")[0]
        return Database(
            **{**row, "settings": tuple(row["settings"])},
            name=moment.database,
            file=name,
            format="directory" if self._settings.full_backup.jobs > 1 else "custom",
            snapshot=snapshot.xacts,
            snapshot_lsn=snapshot.lsn,
            tables=contents,
            large_objects=large_objects,
            sequences=moment.sequences,
            foreign_keys=describe.foreign_keys(snapshot.connection),
            materialized_views=describe.materialized_views(snapshot.connection),
            extensions=describe.extensions(snapshot.connection),
            objects=describe.objects(snapshot.connection),
            invalid_indexes=describe.invalid_indexes(snapshot.connection),
        )

    def _dump(self, access: ProgramAccess, moment: _Moment) -> str:
        options = self._settings.full_backup
        command = partial(
            dump.dump_database,
            self._programs,
            access,
            moment.database,
            snapshot_id=moment.snapshot.id,
            compression=options.compression,
        )
        encoded = encode_database(moment.database)
        if options.jobs == 1:
            return self._store_stream(f"{encoded}.dump", command())
        spool = self._site.spool / str(self._id) / encoded
        spool.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._site.runner.run(command(jobs=options.jobs, folder=spool))
            return self._store_stream(f"{encoded}.dir.tar", dump.pack(spool))
        finally:
            shutil.rmtree(spool.parent, ignore_errors=True)

    def _store_stream(self, name: str, source: Command) -> str:
        """Stream a program's output, encrypted, into the repository."""
        stored_name = name + self._site.keyring.suffix
        started = time.monotonic()
        with self._site.local.create(self._id.key(stored_name)) as sink:
            piped = self._site.runner.pipe(
                source,
                through=self._site.keyring.encrypt(self._passphrase),
                sink=sink,
                progress=lambda count: self._site.progress(name, count),
            )
        self._note(stored_name, piped)
        seconds = max(time.monotonic() - started, 0.001)
        rate = piped.source.bytes / 1e6 / seconds
        log.info("%s: %d bytes in %.1f s (%.1f MB/s)", stored_name, piped.sink.bytes, seconds, rate)
        return stored_name

    def _store_bytes(self, name: str, data: bytes) -> None:
        """Store something small, encrypted like the rest."""
        stored_name = name + self._site.keyring.suffix
        with self._site.local.create(self._id.key(stored_name)) as sink:
            piped = self._site.runner.pipe(
                _Bytes(data), through=self._site.keyring.encrypt(self._passphrase), sink=sink
            )
        self._note(stored_name, piped)

    def _store_key(self) -> None:
        if not self._site.keyring.suffix:
            return
        wrapped = self._site.keyring.wrap(self._passphrase)
        name = f"key.1{self._site.keyring.suffix}"
        self._put(name, wrapped)
        digest = sha256(wrapped).hexdigest()
        self._files.append(
            File(name=name, stored_bytes=len(wrapped), stored_sha256=digest, plain_bytes=0, plain_sha256="")
        )

    def _commit(self, manifest: Manifest) -> None:
        """Write the manifest, then the checksums over everything: from then on it is a backup."""
        text = manifest.to_json()
        self._put(MANIFEST, text)
        digests = {file.name: file.stored_sha256 for file in self._files}
        digests[MANIFEST] = sha256(text).hexdigest()
        self._put(SUMS, format_sums(digests))

    def _put(self, name: str, data: bytes) -> None:
        with self._site.local.create(self._id.key(name)) as sink:
            sink.write(data)

    def _note(self, name: str, piped: Piped) -> None:
        self._files.append(
            File(
                name=name,
                stored_bytes=piped.sink.bytes,
                stored_sha256=piped.sink.sha256,
                plain_bytes=piped.source.bytes,
                plain_sha256=piped.source.sha256,
            )
        )


def fitting_programs(site: Site, server: Server) -> tuple[Programs, str]:
    """Return the client programs and their version; raises UnfitError when they are older than the server."""
    programs = find_programs(site.settings.paths.postgres_bin, major=server.version // 10000)
    version = programs.version(site.runner)
    if int(version.split(".")[0]) < server.version // 10000:
        raise UnfitError(
            f"pg_dump {version} is older than the server ({server.version_text})",
            detail=f"programs in {programs.folder}",
            hint=f"install postgresql-client-{server.version // 10000}, or set paths.postgres_bin",
        )
    return programs, version


def _chosen(databases: tuple[str, ...], settings: Cluster) -> tuple[str, ...]:
    return tuple(database for database in databases if database not in settings.exclude_databases)


def _not_included(moment: _Moment) -> list[str]:
    notes = [row["note"] for row in describe.rows(moment.snapshot.connection, "not_included")]
    return [f"{moment.database}: {note}" for note in notes]


class _Bytes:
    """Bytes as a Readable."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1, /) -> bytes:
        data, self._data = (self._data, b"") if size < 0 else (self._data[:size], self._data[size:])
        return data

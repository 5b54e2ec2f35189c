"""A physical backup under way: files and WAL of one moment, and the snapshots behind it that will prove it.

The files come first: recovery can stop only behind their end, so the snapshots that prove them have to be younger. The
WAL between is streamed beside them and kept with the backup, so that it can be proved without any archive.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.capture.contents import ContentReader
from pgbackup.capture.marks import find_marks
from pgbackup.capture.moments import Moments, all_moments
from pgbackup.capture.session import Capture, capturing
from pgbackup.capture.source import Source, opened_source
from pgbackup.capture.writer import BackupWriter
from pgbackup.domain.errors import ProgramFailed
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import Command, Kind
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Fingerprints
from pgbackup.postgres.physical import WalRange, base_backup, read_backup_manifest
from pgbackup.postgres.wal_stream import WalStream, streaming_wal
from pgbackup.scratch import make_private

log = logging.getLogger(__name__)

BACKUP_MANIFEST = "backup_manifest"
_SNAPSHOT_TRIES = 8
_COMMON_TRIES = 3
# In the server's refusal; a libzstd without threads is rare, and says so in English only here.
_NO_ZSTD = ("ZSTD", "compression worker")


@dataclass(frozen=True)
class Marked:
    """Snapshots, the marked point of each database that has one, and the end of the WAL that reaches behind them."""

    moments: Moments
    points: dict[str, Lsn]
    end: Lsn


@dataclass(frozen=True)
class PhysicalCapture:
    """What the steps of one physical capture share."""

    site: Site
    capture: Capture
    source: Source
    spool: Path
    stream: WalStream
    writer: BackupWriter

    def take_files(self, parent: Path | None) -> WalRange:
        """Run pg_basebackup into the spool and store its files one by one; ``parent`` is a backup_manifest.

        The files are compressed by the server, or by us where its build cannot.
        """
        folder = self.spool / "files"
        try:
            self._base_backup(folder, parent, compress=True)
        except ProgramFailed as error:
            if not any(word in error.stderr for word in _NO_ZSTD):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            self._base_backup(folder, parent, compress=False)
        wal = read_backup_manifest(folder / BACKUP_MANIFEST)
        (folder / "pg_wal.tar").unlink()  # the capture's own stream holds the same segments, and those behind them
        for path in sorted(folder.iterdir()):
            if path.name == BACKUP_MANIFEST:
                self.writer.put(path.name, path.read_bytes())
                continue
            if path.suffix == ".tar":
                self.writer.stream(f"{path.name}.zst", Command(("zstd", "-1", "--quiet", "--stdout", str(path))))
            else:
                with path.open("rb", buffering=0) as file:
                    self.writer.stream(path.name, file)
            path.unlink()
        return wal

    def _base_backup(self, folder: Path, parent: Path | None, *, compress: bool) -> None:
        source = self.source
        command = base_backup(
            source.programs,
            source.access,
            source.database,
            folder,
            compress=compress,
            parent=parent,
            max_rate=source.settings.load.max_rate,
        )
        self.site.runner.run(command)

    @contextlib.contextmanager
    def marked(self, wal: WalRange) -> Iterator[Marked]:
        """Take snapshots until all share one marked point, then until each has one; at last go on with what there is.

        They are held until the block ends. The WAL stream has ended then: what it holds reaches behind them.
        """
        for attempt in range(1, _SNAPSHOT_TRIES + 1):
            with all_moments(self.source, self.site.runner) as moments:
                closed = self.stream.close_segment()
                marks = find_marks(self.source.programs, self.site.runner, self.stream, wal, moments, closed)
                complete = len(marks) == len(moments.databases)
                common = complete and (attempt > _COMMON_TRIES or len(set(marks.values())) == 1)
                if common or attempt == _SNAPSHOT_TRIES:
                    for moment in moments.databases:
                        if moment.database not in marks:
                            log.warning("the snapshot of %s has no marked point", moment.database)
                    self.stream.end()
                    yield Marked(moments, marks, closed)
                    return
            log.info("the snapshots have no common marked point: once more (%d)", attempt)

    def keep_wal(self) -> None:
        """Store the segments from the start to behind the marked points: the backup can be proved with these alone."""
        names = tuple(path.name for path in self.stream.segments())
        options = ("--create", "--file=-", "--use-compress-program=zstd -1 --quiet")
        self.writer.stream("wal.tar.zst", Command(("tar", *options, f"--directory={self.stream.folder}", "--", *names)))

    def fingerprint(self, marked: Marked, settings: Fingerprints) -> tuple[Database, ...]:
        """Read every table at its snapshot; return the manifest's entries."""
        entries = []
        for moment in marked.moments.databases:
            with ContentReader(self.source.parameters, moment.database, moment.snapshot, settings) as reader:
                tables, large_objects = reader.result()
            entries.append(moment.entry(file=None, layout=None, tables=tables, large_objects=large_objects))
        return tuple(entries)

    def manifest(
        self,
        wal: WalRange,
        marked: Marked,
        entries: tuple[Database, ...],
        *,
        method: str | None = None,
        parent: str | None = None,
    ) -> Manifest:
        """Return the manifest: what every database was, at its marked point."""
        return Manifest(
            id=str(self.capture.id),
            kind=self.capture.id.kind,
            method=method,
            parent=parent,
            start_lsn=str(wal.start),
            stop_lsn=str(wal.stop),
            end_lsn=str(marked.end),
            cluster=self.capture.id.cluster,
            server=self.source.server.model_copy(update={"timeline": wal.timeline}),
            client_version=self.source.client_version,
            started_at=self.capture.started_at,
            finished_at=self.site.clock(),
            backup_time=min(
                (moment.snapshot.moment for moment in marked.moments.databases), default=self.capture.started_at
            ),
            fingerprints=any(table.content for entry in entries for table in entry.tables),
            encrypted=bool(self.site.keyring.suffix),
            recipients=self.writer.recipients,
            roles=marked.moments.roles,
            bootstrap_superuser=marked.moments.bootstrap_superuser,
            databases=tuple(_marked(entry, marked.points.get(entry.name)) for entry in entries),
            files=self.writer.files,
            not_included=("configuration files outside the data directory",),
        )

    def commit(self, manifest: Manifest) -> None:
        """Make it a backup; keep its backup_manifest in the clear, because the next incremental needs it.

        An older one goes last: whenever the power does, the newest backup's is there.
        """
        taken = self.spool / "files" / BACKUP_MANIFEST
        if not taken.exists():  # a bundle of WAL
            self.writer.commit(manifest)
        else:
            kept = kept_backup_manifest(self.site, manifest.id, manifest.cluster)
            make_private(kept.parent)
            shutil.copyfile(taken, kept)
            kept.chmod(0o600)
            self.writer.commit(manifest)
            for other in kept.parent.glob(f"*.{BACKUP_MANIFEST}"):
                if other != kept:
                    other.unlink(missing_ok=True)
        self.capture.manifest = manifest


@contextlib.contextmanager
def physical_capture(site: Site, cluster: str, kind: Kind) -> Iterator[PhysicalCapture]:
    """Open a physical capture of a cluster that the caller holds; WAL is streamed until its marked moments."""
    with (
        capturing(site, cluster, kind) as capture,
        opened_source(site, cluster) as source,
        _spool(site, capture) as spool,
        streaming_wal(
            source.programs, site.runner, source.access, source.connection, source.database, spool / "wal"
        ) as stream,
    ):
        yield PhysicalCapture(site, capture, source, spool, stream, BackupWriter(site, capture.id))


def kept_backup_manifest(site: Site, backup_id: str, cluster: str) -> Path:
    """Return where a backup's manifest is kept in the clear, if it is the newest one."""
    return site.settings.paths.state_folder / cluster / f"{backup_id}.{BACKUP_MANIFEST}"


@contextlib.contextmanager
def _spool(site: Site, capture: Capture) -> Iterator[Path]:
    folder = site.spool / str(capture.id)
    make_private(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _marked(entry: Database, mark: Lsn | None) -> Database:
    return entry.model_copy(update={"file": None, "format": None, "marked_lsn": None if mark is None else str(mark)})

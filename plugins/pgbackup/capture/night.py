"""The night: a base backup, then the snapshots that prove it and the dump of the same snapshots.

The base comes first: recovery can stop only behind its end, so the snapshot that proves it has to be younger. One set
of fingerprints then serves both, and the WAL between is streamed beside them and kept with the base.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.capture.full import capture_full, dump_moments, take_full
from pgbackup.capture.marks import find_marks
from pgbackup.capture.moments import Moments, all_moments
from pgbackup.capture.session import Capture, capturing, holding
from pgbackup.capture.source import Source, opened_source
from pgbackup.capture.writer import BackupWriter
from pgbackup.domain.errors import PgBackupError, UnfitError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Database, Manifest
from pgbackup.domain.model import Command, Kind
from pgbackup.domain.ports import Site
from pgbackup.postgres.physical import WalRange, base_backup, read_backup_manifest
from pgbackup.postgres.wal_stream import WalStream, streaming_wal

log = logging.getLogger(__name__)

_SNAPSHOT_TRIES = 8
_COMMON_TRIES = 3
_BACKUP_MANIFEST = "backup_manifest"


@dataclass(frozen=True)
class _Marked:
    """Snapshots, the marked point of each database that has one, and the end of the WAL that reaches behind them."""

    moments: Moments
    points: dict[str, Lsn]
    end: Lsn


def capture_night(site: Site, cluster: str) -> tuple[Manifest, ...]:
    """Take the full backup of a cluster and, where configured, the base backup that the same snapshots prove.

    Both are durable in the local repository and in the catalog then. A base that fails does not cost the dump: the
    full backup is taken all the same, and the base's error raised afterwards.
    """
    if not site.settings.cluster(cluster).full_backup.base:
        return (capture_full(site, cluster),)
    with holding(site, cluster):
        taken: list[Manifest] = []
        try:
            base = _take_both(site, cluster, taken)
        except PgBackupError:
            if not taken:
                log.exception("the base backup of %s failed; the dump is taken without it", cluster)
                take_full(site, cluster)
            raise
    return taken[0], base


def _take_both(site: Site, cluster: str, taken: list[Manifest]) -> Manifest:
    with (
        capturing(site, cluster, Kind.BASE) as base,
        opened_source(site, cluster) as source,
        _spool(site, base) as spool,
        streaming_wal(
            source.programs, site.runner, source.access, source.connection, source.database, spool / "wal"
        ) as stream,
    ):
        writer = BackupWriter(site, base.id)
        wal = _take_base(site, source, writer, spool / "base")
        with _marked_moments(site, source, stream, wal) as marked:
            stream.end()
            _keep_wal(writer, stream)
            with capturing(site, cluster, Kind.FULL) as full:
                full.manifest = dump_moments(site, source, full, marked.moments)
            taken.append(full.manifest)
        base.manifest = _base_manifest(site, base, writer, wal, full.manifest, marked)
        writer.commit(base.manifest)
    return base.manifest


@contextlib.contextmanager
def _spool(site: Site, capture: Capture) -> Iterator[Path]:
    folder = site.spool / str(capture.id)
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_base(site: Site, source: Source, writer: BackupWriter, folder: Path) -> WalRange:
    """Run pg_basebackup into the spool, store its files one by one, each removed as it is stored."""
    site.runner.run(base_backup(source.programs, source.access, source.database, folder, compress=True, parent=None))
    wal = read_backup_manifest(folder / _BACKUP_MANIFEST)
    (folder / "pg_wal.tar").unlink()  # the capture's own stream holds the same segments, and those behind them
    for path in sorted(folder.iterdir()):
        if path.name not in {"base.tar.zst", _BACKUP_MANIFEST}:
            raise UnfitError(
                "a physical backup of a cluster with tablespaces is not supported yet",
                detail=path.name,
                hint="set full_backup.base to false: the dump is complete, tablespaces included",
            )
        with path.open("rb", buffering=0) as file:
            writer.stream(path.name, file)
        path.unlink()
    return wal


@contextlib.contextmanager
def _marked_moments(site: Site, source: Source, stream: WalStream, wal: WalRange) -> Iterator[_Marked]:
    """Take snapshots until all share one marked point, then until each has one; at last go on with what there is."""
    for attempt in range(1, _SNAPSHOT_TRIES + 1):
        with all_moments(source, site.runner) as moments:
            closed = stream.close_segment()
            marks = find_marks(source.programs, site.runner, stream, wal, moments, closed)
            complete = len(marks) == len(moments.databases)
            common = complete and (attempt > _COMMON_TRIES or len(set(marks.values())) == 1)
            if common or attempt == _SNAPSHOT_TRIES:
                for moment in moments.databases:
                    if moment.database not in marks:
                        log.warning("the snapshot of %s has no marked point", moment.database)
                yield _Marked(moments, marks, closed)
                return
        log.info("the snapshots have no common marked point: once more (%d)", attempt)


def _keep_wal(writer: BackupWriter, stream: WalStream) -> None:
    """Store the segments from the base's start to behind the marked points: the base can be proved with these alone."""
    names = tuple(path.name for path in stream.segments())
    options = ("--create", "--file=-", "--use-compress-program=zstd -1 --quiet", f"--directory={stream.folder}", "--")
    writer.stream("wal.tar.zst", Command(("tar", *options, *names)))


def _base_manifest(
    site: Site,
    base: Capture,
    writer: BackupWriter,
    wal: WalRange,
    full: Manifest,
    marked: _Marked,
) -> Manifest:
    """The base's manifest: the full backup's fingerprints, at the marked points."""
    return full.model_copy(
        update={
            "id": str(base.id),
            "kind": Kind.BASE,
            "started_at": base.started_at,
            "finished_at": site.clock(),
            "start_lsn": str(wal.start),
            "stop_lsn": str(wal.stop),
            "end_lsn": str(marked.end),
            "databases": tuple(_marked(entry, marked.points.get(entry.name)) for entry in full.databases),
            "files": writer.files,
            "recipients": writer.recipients,
            "not_included": ("configuration files outside the data directory",),
        }
    )


def _marked(entry: Database, mark: Lsn | None) -> Database:
    return entry.model_copy(update={"file": None, "format": None, "marked_lsn": None if mark is None else str(mark)})

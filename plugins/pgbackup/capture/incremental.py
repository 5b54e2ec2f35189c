"""The incremental backup: changed blocks where the server knows them, a bundle of archived WAL elsewhere, or a base."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from pgbackup.capture.physical import PhysicalCapture, kept_backup_manifest, physical_capture
from pgbackup.capture.session import holding
from pgbackup.capture.source import opened_source
from pgbackup.domain.chain import Next, chain_of, data_links, next_backup
from pgbackup.domain.errors import ProgramFailed, RefusedError, UnavailableError
from pgbackup.domain.ids import MANIFEST, BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest, parse_manifest
from pgbackup.domain.model import Command, CopyState, Kind, State
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import LOCAL, Fingerprints
from pgbackup.domain.wal import Archived, Segment
from pgbackup.postgres import describe
from pgbackup.postgres.physical import WalRange
from pgbackup.restore.archive import copy_archived, list_archive

log = logging.getLogger(__name__)

_ARCHIVE_PATIENCE = 120.0
_STANDING = frozenset({State.CAPTURED, State.VERIFIED})
_DAMAGED_HERE = (LOCAL, CopyState.DAMAGED)


def capture_base(site: Site, cluster: str) -> Manifest:
    """Take a base backup with fingerprints of its own; durable when it returns."""
    with holding(site, cluster) as held:
        return _take_base(held, cluster)


def capture_incremental(site: Site, cluster: str) -> Manifest:
    """Take what the cluster needs next: an incremental, or a base where none can stand; durable when it returns.

    Raises BusyError while another backup of the cluster runs; after any error nothing is left that looks like a backup.
    """
    with holding(site, cluster) as held:
        wanted = _decide(held, cluster)
        log.info("%s: %s, because %s", cluster, wanted.method or "a base", wanted.reason)
        if wanted.method is not None and wanted.parent is not None:
            try:
                take = _take_block if wanted.method == "block" else _take_wal
                return take(held, cluster, wanted.parent)
            except _BaseNeededError as error:
                log.warning("a base instead of an incremental on %s: %s", wanted.parent.id, error)
        return _take_base(held, cluster)


class _BaseNeededError(RefusedError):
    """No incremental can stand on the parent; a base can be taken all the same."""


def _decide(site: Site, cluster: str) -> Next:
    with opened_source(site, cluster) as source:
        newest = _newest_chain(site, cluster)
        last_files = data_links(newest)[-1] if newest else None
        return next_backup(
            newest,
            source.server,
            source.settings.incremental_backup,
            summarizes=describe.summarizes_wal(source.connection),
            has_backup_manifest=last_files is not None and kept_backup_manifest(site, last_files.id, cluster).exists(),
        )


def _newest_chain(site: Site, cluster: str) -> tuple[Manifest, ...]:
    """Return the chain of the newest physical backup, if nothing in it is rejected: a new chain starts then."""
    backups = [
        backup
        for backup in site.catalog.backups(cluster)
        if backup.kind is not Kind.FULL and backup.state in {*_STANDING, State.REJECTED}
    ]
    if not backups:
        return ()
    known: dict[str, Manifest] = {}
    wanted: str | None = backups[0].id
    lost = {one.id for one in backups for copy in one.copies if (copy.repository, copy.state) == _DAMAGED_HERE}
    states = {backup.id: backup.state for backup in backups if backup.id not in lost}
    try:
        while wanted is not None and wanted not in known:
            if states.get(wanted) not in _STANDING:
                log.warning("%s is rejected, damaged or gone: nothing stands on it", wanted)
                return ()
            text = site.local.read(BackupId.parse(wanted).key(MANIFEST))
            known[wanted] = parse_manifest(text, source=wanted)
            wanted = known[wanted].parent
        return chain_of(known[backups[0].id], known)
    except RefusedError as error:
        log.warning("the newest chain cannot be continued: %s", error)
        return ()


def _take_base(site: Site, cluster: str) -> Manifest:
    with physical_capture(site, cluster, Kind.BASE) as taking:
        return _finish(taking, taking.take_files(parent=None))


def _take_block(site: Site, cluster: str, parent: Manifest) -> Manifest:
    with physical_capture(site, cluster, Kind.INCREMENTAL) as taking:
        try:
            wal = taking.take_files(parent=kept_backup_manifest(site, parent.id, cluster))
        except ProgramFailed as error:
            if "summar" not in error.stderr and "manifest" not in error.stderr:
                raise
            raise _BaseNeededError("the server cannot tell the changed blocks", detail=error.detail) from None
        return _finish(taking, wal, method="block", parent=parent.id)


def _finish(
    taking: PhysicalCapture, wal: WalRange, *, method: str | None = None, parent: str | None = None
) -> Manifest:
    with taking.marked(wal) as marked:
        taking.keep_wal()
        entries = taking.fingerprint(marked, _fingerprints(taking))
    manifest = taking.manifest(wal, marked, entries, method=method, parent=parent)
    taking.commit(manifest)
    return manifest


def _take_wal(site: Site, cluster: str, parent: Manifest) -> Manifest:
    """Bundle the archived WAL from the parent's end to behind new snapshots; the archive must hold all of it."""
    with physical_capture(site, cluster, Kind.INCREMENTAL) as taking:
        size, timeline = taking.stream.segment_size, taking.stream.timeline
        first = Segment.holding(Lsn.parse(parent.end_lsn or "").minus(1), timeline, size).next()
        here = Segment.holding(taking.stream.position(), timeline, size)
        with taking.marked(WalRange(timeline, here.start, first.start)) as marked:
            entries = taking.fingerprint(marked, _fingerprints(taking))
        last = Segment.holding(marked.end.minus(1), timeline, size)
        _store_bundle(taking, _wait_for(site, cluster, taking.source.server.system_identifier, first, last))
        wal = WalRange(timeline, first.start, first.start)
        manifest = taking.manifest(wal, marked, entries, method="wal", parent=parent.id)
        taking.commit(manifest)
    return manifest


def _wait_for(site: Site, cluster: str, system_identifier: str, first: Segment, last: Segment) -> list[Archived]:
    """Return the archived segments from ``first`` to ``last``; raises _BaseNeededError for a gap."""
    deadline = time.monotonic() + _ARCHIVE_PATIENCE
    while True:
        listing = list_archive(site.local, cluster, system_identifier)
        wanted = [Segment(first.timeline, number, first.size) for number in range(first.number, last.number + 1)]
        ambiguous = {segment.name for segment in wanted} & set(listing.conflicts)
        if ambiguous:
            raise _BaseNeededError(f"the WAL archive has two different contents of {min(ambiguous)}")
        missing = [segment for segment in wanted if segment not in listing.segments]
        if not missing:
            return [listing.segments[segment] for segment in wanted]
        newest = listing.last(first.timeline)
        if newest is not None and newest > missing[0]:
            raise _BaseNeededError(f"the WAL archive has a gap at {missing[0].name}")
        if time.monotonic() > deadline:
            if newest is None:
                raise _BaseNeededError(f"nothing of timeline {first.timeline} is in the WAL archive")
            raise UnavailableError(
                f"the WAL archive does not get {missing[0].name}",
                detail=f"its newest segment is {newest.name}",
                hint="is the receiver running? `pgbackup wal status`; archive_command: see pg_stat_archiver",
            )
        time.sleep(0.5)


def _store_bundle(taking: PhysicalCapture, wanted: list[Archived]) -> None:
    """Store the segments as they rest in the archive, in one tar: a small repository of its own."""
    with tempfile.TemporaryDirectory(dir=taking.spool) as name:
        for archived in wanted:
            copy_archived(taking.site.local, archived, Path(name))
        command = Command(("tar", "--create", "--file=-", f"--directory={name}", "--", "wal"))
        taking.writer.stream("wal.tar", command)


def _fingerprints(taking: PhysicalCapture) -> Fingerprints:
    settings = taking.source.settings
    return settings.incremental_backup.fingerprints or settings.fingerprints

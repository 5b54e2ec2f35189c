"""The server's own archiving (archive_command): does it work, what waits for it, how old is what waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pgbackup.domain.findings import Answer
from pgbackup.domain.settings import Wal
from pgbackup.domain.wal import Segment, is_segment
from pgbackup.postgres import replication
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.replication import ArchiverState, Backlog, Position
from pgbackup.watch.archive import ArchiveState
from pgbackup.watch.text import megabytes, span

_LOOK = "the server's log says what archive_wal.sh says: a full disk, a missing key, a conflict"


@dataclass(frozen=True)
class Archiving:
    """What the server says of its archiver; moments are by the server's clock."""

    now: datetime
    position: Position
    archiver: ArchiverState
    backlog: Backlog
    timeout: timedelta

    @property
    def late(self) -> timedelta:
        """For how long the oldest finished segment waits."""
        return self.now - self.backlog.oldest if self.backlog.oldest else timedelta(0)

    @property
    def retained(self) -> int:
        """Bytes of WAL that wait."""
        return self.backlog.files * self.position.segment_size


def observe_archiving(connection: Connection) -> Archiving:
    """Ask the server."""
    return Archiving(
        replication.now(connection),
        replication.position(connection),
        replication.archiver(connection),
        replication.backlog(connection),
        replication.archive_timeout(connection),
    )


def archiver_works(seen: Archiving, archive: ArchiveState | None) -> Answer:
    """Archiving is on, its last attempt went well, and what it says it archived is in the archive."""
    archiver = seen.archiver
    if not archiver.enabled:
        return False, "archive_mode is off: no WAL is archived", "set archive_mode and archive_command, and restart it"
    if archiver.failing:
        return False, f"it fails at {archiver.last_failed_wal}, {archiver.failed_count} failures so far", _LOOK
    name = archiver.last_archived_wal
    if archive and name and is_segment(name):
        segment = Segment.parse(name, seen.position.segment_size)
        if segment not in archive.listing.segments:
            return (
                False,
                f"the server has archived {name}, and the archive does not hold it",
                "archive_command returned 0 for what is not there: it must be archive_wal.sh, into this repository",
            )
    return True, f"last archived: {name or 'nothing yet'}", ""


def retained(seen: Archiving, wal: Wal) -> Answer:
    """What cannot be archived fills the server's disk."""
    size = seen.retained
    return (
        size <= wal.retained,
        f"{megabytes(size)} wait in pg_wal, {megabytes(wal.retained)} allowed",
        f"make archiving work before the server's disk is full: {_LOOK}",
    )


def lag(seen: Archiving, wal: Wal) -> Answer:
    """Finished segments that are not archived, and for how long."""
    return seen.late <= wal.stale, f"{seen.backlog.files} files wait, the oldest {span(seen.late)}", _LOOK


def exposed(seen: Archiving) -> timedelta | None:
    """Return what would be lost if the server were gone now, in time, at most: what waits and the segment being filled.

    None where a quiet server fills its segment for ever.
    """
    return seen.late + seen.timeout if seen.timeout else None


def loss(late: timedelta | None, rpo: timedelta) -> Answer:
    """Judge what would be lost."""
    if late is None:
        return (
            False,
            "archive_timeout is 0: what a quiet server writes waits until its segment is full",
            "set archive_timeout = 300",
        )
    return late <= rpo, f"the last {span(late)} at most, {span(rpo)} allowed", _LOOK

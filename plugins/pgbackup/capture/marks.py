"""Find the marked point of every database's snapshot in the WAL that was streamed beside it."""

from __future__ import annotations

import logging

from pgbackup.capture.moments import Moments
from pgbackup.domain.errors import ProgramFailed
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Runner
from pgbackup.postgres.marked_point import StopRange, Visibility, commits, common_point, stop_range
from pgbackup.postgres.physical import WalRange, read_transactions
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.wal_stream import WalStream

log = logging.getLogger(__name__)

# A commit whose record is older than this, and which a snapshot still does not see, waits for a standby that is down.
_MARGIN = 64 << 20


def find_marks(
    programs: Programs, runner: Runner, stream: WalStream, wal: WalRange, moments: Moments, closed: Lsn
) -> dict[str, Lsn]:
    """Return database -> marked point, one for all where possible; databases whose snapshot has none are missing.

    ``closed`` is the end of the received WAL, behind every snapshot: pg_waldump wants to read past what it looks for.
    """
    ranges: dict[str, StopRange] = {}
    for moment in moments.databases:
        before = Lsn.parse(moment.snapshot.before_lsn)
        # From a segment's beginning: behind a switch the rest of a segment is empty, and nothing can be found there.
        start = max(wal.start, before.minus(_MARGIN).floor(stream.segment_size))
        command = read_transactions(programs, stream.folder, timeline=wal.timeline, start=start, end=closed)
        try:
            output, _ = runner.run(command)
        except ProgramFailed as error:
            log.warning("cannot read the WAL around the snapshot of %s: %s", moment.database, error)
            continue
        found = stop_range(
            list(commits(output.decode(errors="replace"))),
            Visibility.parse(moment.snapshot.xacts),
            before=before,
            consistent_from=wal.stop,
        )
        if found is not None:
            ranges[moment.database] = found
    common = common_point(list(ranges.values()))
    return {database: common or found.high for database, found in ranges.items()}

"""How long the plan of a rotation takes: python -m bench.rotation [backups] (100,000)."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.retention import Physical, Stored, StoredSegment, plan_retention
from pgbackup.domain.settings import Retention
from pgbackup.domain.wal import Segment

_SIZE = 16 << 20
_NOW = datetime(2026, 3, 20, 7, tzinfo=UTC)


def main(count: int) -> None:
    """Plan a third each of dumps, bases and incrementals, and as many segments; print the best of five."""
    backups: list[Stored] = []
    for number in range(count // 3):
        moment = _NOW - number * timedelta(hours=6)
        position = Lsn((count - number) * _SIZE)
        physical = Physical("7", 1, position, Lsn(position.position + 1))
        backups += [
            Stored(f"f{number}", Kind.FULL, None, moment, 1, Verdict.VERIFIED),
            Stored(f"b{number}", Kind.BASE, None, moment, 1, Verdict.VERIFIED, physical),
            Stored(f"i{number}", Kind.INCREMENTAL, f"b{number}", moment, 1, Verdict.VERIFIED, physical),
        ]
    segments = [
        StoredSegment("7", Segment(1, number, _SIZE), 1, _NOW - (count - number) * timedelta(hours=6))
        for number in range(count)
    ]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        plan = plan_retention(backups, segments, Retention(), _NOW)
        seconds.append(time.perf_counter() - started)
    kept = len(backups) - len(plan.going)
    print(f"{len(backups)} backups, {count} segments: {min(seconds):.2f} s, {kept} backups stay")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

"""A cluster recovered beside: exactly what was committed before the target, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from tests.support.archiving import archiving
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import SAMPLE, Source, free_port
from tests.support.traffic import TOTAL, Traffic

from pgbackup.capture import capture_base, capture_incremental
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target
from pgbackup.domain.wal import Segment
from pgbackup.postgres.physical import read_transactions
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover import Recovered, plan, recover_cluster
from pgbackup.restore.archive import list_archive

_COMMIT = re.compile(
    r"tx: +(\d+), lsn: ([0-9A-F/]+), .*desc: COMMIT(?:_PREPARED (\d+):)? (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC"
)


@dataclass(frozen=True)
class Commit:
    """A commit record of the source's own WAL."""

    lsn: Lsn
    xid: int
    stamp: datetime


@dataclass(frozen=True)
class Story:
    """A bank with a base, a block incremental and archived WAL, and its true history."""

    source: Source
    site: Site
    base: Manifest
    incremental: Manifest
    commits: tuple[Commit, ...]
    transfers: frozenset[int]
    moments: tuple[datetime, datetime]
    positions: tuple[Lsn, Lsn]

    def before(self, target: Target) -> frozenset[int]:
        """The transactions of transfers that have to be there at a target."""
        found = set(self.transfers) - {commit.xid for commit in self.commits}  # from before the base
        for commit in self.commits:
            if isinstance(target, AtTime) and commit.stamp > target.moment:
                break
            if isinstance(target, AtLsn) and commit.lsn >= target.lsn:
                break
            found.add(commit.xid)
            if isinstance(target, AtXid) and commit.xid == target.xid:
                break
        return frozenset(found) & self.transfers


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Story]:
    source = Source()
    server.execute("CREATE DATABASE recovery_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE bank")
        for name in ("postgres", "bank"):
            source.run_script(SAMPLE / "pgbackup.sql", name)
        for setting in ("summarize_wal = on", "wal_keep_size = '4GB'"):
            source.execute(f"ALTER SYSTEM SET {setting}")
        source.execute("SELECT pg_reload_conf()")
        source.execute(
            "CREATE TABLE transfer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, source int NOT NULL,"
            " target int NOT NULL, amount int NOT NULL, at timestamptz DEFAULT now(),"
            " xid xid8 DEFAULT pg_current_xact_id())",
            "bank",
        )
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=recovery_catalog"
        site = make_site(tmp_path_factory.mktemp("recovery"), source, dsn, key)
        yield tell(source, site)
    finally:
        source.remove()
        server.execute("DROP DATABASE recovery_catalog WITH (FORCE)")


def tell(source: Source, site: Site) -> Story:
    moments, positions = [], []
    with archiving(site, source):
        with Traffic(source, "bank"):
            base = capture_base(site, "streamflix")
            for taken in range(2):
                time.sleep(0.5)
                with source.connect("bank") as connection:
                    [moment, lsn] = connection.execute(
                        "SELECT clock_timestamp(), pg_current_wal_insert_lsn()"
                    ).fetchone()
                    moments.append(moment.astimezone(UTC))
                    positions.append(Lsn.parse(lsn))
                    connection.execute("SELECT pg_create_restore_point('twice')")
                    time.sleep(0.3)
                    connection.execute("SELECT pg_switch_wal()")
                if taken == 0:
                    incremental = capture_incremental(site, "streamflix")
        with source.connect("bank") as connection:
            [end] = connection.execute("SELECT pg_switch_wal()::text").fetchone()
            rows = connection.execute("SELECT xid::text FROM transfer").fetchall()
        last = Lsn.parse(end).segment(1, 16 << 20)
        deadline = time.monotonic() + 60
        while all(one.name != last for one in archived(site)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return Story(
        source=source,
        site=site,
        base=base,
        incremental=incremental,
        commits=truth(source, site, Lsn.parse(base.start_lsn or ""), Lsn.parse(end)),
        transfers=frozenset(int(xid) for (xid,) in rows),
        moments=(moments[0], moments[1]),
        positions=(positions[0], positions[1]),
    )


def archived(site: Site) -> list[Segment]:
    [system] = {path.name for path in (site.settings.paths.backups / "wal" / "streamflix").glob("*")} or {""}
    return sorted(list_archive(site.local, "streamflix", system).segments)


def truth(source: Source, site: Site, start: Lsn, end: Lsn) -> tuple[Commit, ...]:
    """Read the source's own WAL."""
    command = read_transactions(Programs(source.bin), source.data / "pg_wal", timeline=1, start=start, end=end)
    output, _ = site.runner.run(command)
    return tuple(
        Commit(Lsn.parse(match[2]), int(match[3] or match[1]), datetime.fromisoformat(match[4] + "+00:00"))
        for match in _COMMIT.finditer(output.decode())
    )


def bank(recovered: Recovered, story: Story, folder: Path) -> tuple[int, frozenset[int]]:
    """The total, and the transactions that are there, in a recovered directory."""
    server = ThrowAwayServer(folder, Programs(story.source.bin), story.site.runner, "postgres", 18)
    (folder / "data").symlink_to(recovered.folder)
    with server.running() as parameters, psycopg.connect(**{**parameters.keywords, "dbname": "bank"}) as connection:
        [total] = connection.execute("SELECT sum(balance) FROM account").fetchone() or (0,)
        rows = connection.execute("SELECT xid::text FROM transfer").fetchall()
    return total, frozenset(int(xid) for (xid,) in rows)


def targets(story: Story) -> dict[str, tuple[Target, Target]]:
    """Each with the one that says what has to be there."""
    early, late = story.positions
    xid = next(one.xid for one in story.commits if one.lsn > late and one.xid in story.transfers)
    return {
        "latest": (Latest(), Latest()),
        "time before the incremental": (AtTime(story.moments[0]), AtTime(story.moments[0])),
        "time": (AtTime(story.moments[1]), AtTime(story.moments[1])),
        "lsn before the incremental": (AtLsn(early), AtLsn(early)),
        "lsn": (AtLsn(late), AtLsn(late)),
        "xid": (AtXid(xid), AtXid(xid)),
        "name": (AtName("twice"), AtLsn(late)),
    }


@pytest.mark.parametrize("name", ["latest", "time before the incremental", "time", "lsn", "xid", "name"])
def test_exactly_what_was_committed_before_the_target_is_back(story: Story, tmp_path: Path, name: str) -> None:
    target, equal = targets(story)[name]
    recovered = recover_cluster(story.site, "streamflix", target, into=tmp_path / "new")
    total, transfers = bank(recovered, story, tmp_path)
    assert total == TOTAL
    if name == "name":
        equal = AtLsn(recovered.replayed.lsn)  # the point is written a little behind the position that was noted
        assert equal.lsn > story.positions[1]
    assert transfers == story.before(equal)
    assert recovered.plan.chain[0] == story.base.id
    assert recovered.replayed.timeline == 2
    assert recovered.replayed.last_commit is not None
    assert recovered.replayed.heartbeat is not None
    assert not (tmp_path / "new.pgbackup").exists()

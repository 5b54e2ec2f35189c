"""What a rotation leaves of a real server's bases and WAL recovers every moment of the window, and what is held."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.support.archiving import archiving
from tests.support.receiver import small_segments
from tests.support.site import with_settings
from tests.support.source import SAMPLE, Source

from pgbackup.capture import capture_base
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Retention
from pgbackup.domain.target import AtTime
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover import hold_needed, recover_cluster, release_needed
from pgbackup.recover import plan as plan_recovery
from pgbackup.restore.archive import list_archive
from pgbackup.rotate import apply, plan

NONE, VERIFIED = timedelta(microseconds=1), Verdict.VERIFIED


def tick(source: Source, number: int) -> datetime:
    """Write a number; return a moment behind it."""
    with source.connect("postgres") as connection:
        connection.execute("INSERT INTO tick VALUES (%s)", (number,))
        [moment] = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
        time.sleep(0.05)  # the next commit has a later stamp
        connection.execute("SELECT pg_switch_wal()")
    return moment.astimezone(UTC)


def everything_is_archived(site: Site, source: Source, system: str) -> None:
    """Wait for it."""
    with source.connect("postgres") as connection:
        [text] = connection.execute("SELECT pg_switch_wal()::text").fetchone() or ("",)
    deadline = time.monotonic() + 60
    while all(one.end < Lsn.parse(text) for one in list_archive(site.local, "streamflix", system).segments):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ticks(site: Site, source: Source, moment: datetime, into: Path) -> list[int]:
    """Recover to a moment; return the numbers that are there."""
    recover_cluster(site, "streamflix", AtTime(moment), into=into / "recovered")
    server = ThrowAwayServer(into, Programs(source.bin), site.runner, "postgres", 18)
    (into / "data").symlink_to(into / "recovered")
    with server.running() as parameters, psycopg.connect(**{**parameters.keywords, "dbname": "postgres"}) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM tick ORDER BY number")]


def rotated(site: Site, window: timedelta) -> tuple[str, ...]:
    """Keep a recovery window and nothing else; return what was deleted."""
    kept = Retention(window=window, incremental=NONE, unverified=NONE, rejected=NONE, unfinished=NONE)
    narrow = with_settings(site, retention=kept)
    applied = apply(narrow, plan(narrow, "streamflix", "local").document())
    assert not applied.failures
    return applied.backups


def test_an_early_moment_of_the_window_and_a_plan_that_waits_for_its_approval(
    site_for: Callable[..., Site], tmp_path: Path
) -> None:
    source = small_segments()
    try:
        source.run_script(SAMPLE / "pgbackup.sql", "postgres")
        source.execute("CREATE TABLE tick (number int)")
        site = site_for(source)
        bases, moments = [], []
        with archiving(site, source):
            for number in range(9):
                if number in {0, 2, 4, 6}:
                    bases.append(capture_base(site, "streamflix"))
                    time.sleep(1.1)  # ids have seconds
                moments.append(tick(source, number))
            everything_is_archived(site, source, bases[0].server.system_identifier)
        for base in bases:
            attempt = site.catalog.begin_verification(base.id, repository="local", owner="test", now=base.finished_at)
            site.catalog.conclude(
                base.id, repository="local", attempt=attempt, verdict=VERIFIED, reason="", now=base.finished_at
            )
        newest = bases[-1].backup_time
        system = bases[0].server.system_identifier
        before = list_archive(site.local, "streamflix", system).segments

        early = plan_recovery(site, "streamflix", AtTime(moments[1]), timeline=None, repository="local")
        assert early.chain == (bases[0].id,)
        asking = dataclasses.replace(site, owner="a run")
        hold_needed(asking, "streamflix", early)
        assert rotated(site, newest - moments[3]) == ()
        waiting = tmp_path / "waiting"
        waiting.mkdir()
        assert ticks(site, source, moments[1], waiting) == [0, 1]

        release_needed(asking, early)
        # The window begins at the fourth tick: the second base is the newest one before it.
        assert rotated(site, newest - moments[3]) == (bases[0].id,)
        after = list_archive(site.local, "streamflix", system).segments
        assert set(after) < set(before)
        for number in (3, 5, 7):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert ticks(site, source, moments[number], folder) == list(range(number + 1))
        with pytest.raises(RefusedError, match="before the end of the first backup"):
            plan_recovery(site, "streamflix", AtTime(moments[0]), timeline=None, repository="local")
    finally:
        source.remove()

"""What happened a moment ago is within reach: the server is asked to close the segment that holds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.archiving import archiving
from tests.support.source import Source

from pgbackup.capture import capture_base
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site
from pgbackup.domain.target import AtLsn, AtName, AtTime, Target
from pgbackup.recover import plan


def planned(site: Site, target: Target) -> None:
    plan(site, "streamflix", target, timeline=None, repository="local")


def moment(source: Source) -> datetime:
    """The server's clock, between two commits."""
    with source.connect("streamflix") as connection:
        [now] = connection.execute("SELECT clock_timestamp()").fetchone()
        time.sleep(0.01)
        connection.execute("SELECT pg_current_xact_id(), pg_logical_emit_message(true, 'test', 'later')")
    return now.astimezone(UTC)


def test_the_present_is_archived_when_it_is_asked_for(source: Source, site_for: Callable[..., Site]) -> None:
    source.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
    site = site_for(source)
    with archiving(site, source):
        capture_base(site, "streamflix")
        planned(site, AtTime(moment(source)))
        with source.connect("streamflix") as connection:
            [position] = connection.execute("SELECT pg_create_restore_point('before the release')::text").fetchone()
        planned(site, AtName("before the release"))
        planned(site, AtLsn(Lsn.parse(position)))
        with pytest.raises(RefusedError, match="lies behind the last WAL"):
            planned(site, AtTime(moment(source) + timedelta(days=1)))
    lost = AtTime(moment(source))
    with pytest.raises(RefusedError, match="lies behind the last WAL"):
        planned(site, lost)  # nobody receives: it is said at once what can be had
    source.stop()
    try:
        with pytest.raises(RefusedError, match="lies behind the last WAL"):
            planned(site, lost)
    finally:
        source.start()

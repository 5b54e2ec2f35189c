"""What the Recovery page shows of a real archive: a hole ends the window, a hold is told, the catalog gives it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from tests.support.archiving import archiving
from tests.support.crowd import crowd
from tests.support.source import SAMPLE, Source

from pgbackup.capture import capture_base
from pgbackup.domain.model import State
from pgbackup.domain.ports import Site
from pgbackup.overview import look, overview, overview_json
from pgbackup.restore.archive import list_archive
from pgbackup.restore.holds import put_hold


@pytest.fixture(scope="module")
def busy() -> Iterator[Source]:
    """A small server whose segments are small."""
    own = Source(segment=1)
    try:
        own.make_roles()
        own.run_script(SAMPLE / "pgbackup.sql", "postgres")
        yield own
    finally:
        own.remove()


def test_a_hole_in_the_archive_ends_the_window_and_a_hold_is_told(site_for: Callable[..., Site], busy: Source) -> None:
    site = site_for(busy)
    with archiving(site, busy):
        base = capture_base(site, "streamflix")
        for number in range(5):
            busy.execute(f"CREATE TABLE t{number} (); SELECT pg_switch_wal()")
    hold = put_hold(site, base.id, reason="audit", expires_at=site.clock() + timedelta(days=1))
    whole = look(site, "streamflix")
    listing = list_archive(site.local, "streamflix", base.server.system_identifier)
    lost = sorted(listing.segments)[-3]
    site.local.delete(listing.segments[lost].sidecar_key)

    seen = look(site, "streamflix")
    ((window, gap), kept) = (*seen.windows, *seen.gaps), seen.holds
    assert (gap.start, gap.end) == (str(lost.start), str(lost.end))
    assert gap.after is not None
    assert gap.before is not None
    assert window.earliest == whole.windows[0].earliest == base.backup_time
    assert window.latest <= gap.before <= whole.windows[0].latest
    assert [(one.backup_id, one.reason) for one in kept] == [(base.id, hold.reason)]

    site.catalog.looked(seen)
    shown = overview(site, "streamflix")
    assert shown.prospect == seen
    assert [one.id for one in shown.backups] == [base.id]
    assert {(one.name, held.copies) for one in shown.repositories for held in one.holdings} == {("local", 1)}
    assert (shown.summary.latest, shown.summary.last_verified) == (window.latest, None)


MANY = 10_000


def test_of_ten_thousand_backups_none_is_missing_and_few_questions_are_asked(
    site_for: Callable[..., Site], server: Source, catalog_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_for(server)
    assert overview(site, "streamflix").backups == ()
    asked: list[object] = []
    execute = psycopg.Connection.execute

    def counted(self: psycopg.Connection[object], query: object, *given: object, **options: object) -> object:
        asked.append(query)
        return execute(self, query, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.Connection, "execute", counted)
    overview(site, "streamflix")
    few = len(asked)
    with psycopg.connect(catalog_dsn, autocommit=True) as connection:
        crowd(connection, "streamflix", MANY)
    asked.clear()
    shown = overview(site, "streamflix")
    assert len(asked) <= few, "no question a backup"
    assert len({one.id for one in shown.backups}) == MANY
    copies = {one.name: sum(each.copies for each in one.holdings) for one in shown.repositories}
    assert copies == {"local": MANY}
    assert shown.summary.last_verified == max(one.moment for one in shown.backups if one.state is State.VERIFIED)
    assert len(overview_json(shown)) < 300 * MANY, "a line each, without manifests"


def test_the_catalog_s_zone_changes_nothing(site_for: Callable[..., Site], server: Source, catalog_dsn: str) -> None:
    site = site_for(server)
    now = site.clock()
    site = dataclasses.replace(site, clock=lambda: now)
    with psycopg.connect(catalog_dsn, autocommit=True) as connection:
        overview(site, "streamflix")
        crowd(connection, "streamflix", 100)
    before = overview_json(overview(site, "streamflix"))
    name = catalog_dsn.rpartition("=")[2]
    server.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'")
    assert overview_json(overview(site, "streamflix")) == before

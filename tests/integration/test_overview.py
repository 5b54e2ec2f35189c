"""What the Recovery page shows of a real archive: a hole ends the window, a hold is told, the catalog gives it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from tests.support.archiving import archiving
from tests.support.source import SAMPLE, Source

from pgbackup.capture import capture_base
from pgbackup.domain.ports import Site
from pgbackup.overview import look, overview
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

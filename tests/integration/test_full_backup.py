from __future__ import annotations

from collections.abc import Callable

from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain.model import State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.verify import verify


def test_a_backup_is_restored_and_found_equal(streamflix: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(streamflix)
    manifest = capture_full(site, "streamflix")
    verification = verify(site, manifest.id, "local")
    assert verification.verdict is Verdict.VERIFIED
    backup = site.catalog.backup(manifest.id)
    assert backup is not None
    assert backup.state is State.VERIFIED

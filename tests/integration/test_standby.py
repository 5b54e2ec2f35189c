"""A standby is no source of backups, and says where one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.support.receiver import eventually
from tests.support.source import Source
from tests.support.standby import Standby

from pgbackup.capture import capture_full, capture_night, preflight
from pgbackup.domain.errors import UnfitError
from pgbackup.domain.model import State
from pgbackup.domain.ports import Site


@pytest.fixture(scope="module")
def standby(library: Source) -> Iterator[Standby]:
    own = Standby(library)
    try:
        with own.connect("postgres") as connection:
            eventually(lambda: connection.execute("SELECT FROM pg_stat_wal_receiver").rowcount)
        yield own
    finally:
        own.remove()


@pytest.mark.parametrize("capture", [capture_full, capture_night])
def test_a_capture_refuses_a_standby(
    standby: Standby, site_for: Callable[..., Site], capture: Callable[[Site, str], object]
) -> None:
    site = site_for(standby)
    with pytest.raises(UnfitError, match="is a standby") as caught:
        capture(site, "streamflix")
    assert "target_session_attrs=primary" in str(caught.value.hint)
    assert {backup.state for backup in site.catalog.backups()} == {State.FAILED}
    assert not any(site.local.list(""))


def test_preflight_names_the_primary(standby: Standby, library: Source, site_for: Callable[..., Site]) -> None:
    [refusal] = [one for one in preflight(site_for(standby), "streamflix") if one.name == "server is a primary"]
    assert not refusal.ok
    assert refusal.detail.endswith(f"it follows {library.folder}:{library.port}")
    assert "the primary" in refusal.hint


def test_the_hint_works(standby: Standby, library: Source, site_for: Callable[..., Site]) -> None:
    both = {"host": f"{standby.folder},{library.folder}", "port": f"{standby.port},{library.port}"}
    parameters = library.parameters().replace(**both, target_session_attrs="primary")
    manifest = capture_full(site_for(standby, parameters=parameters), "streamflix")
    assert [entry.name for entry in manifest.databases] == ["library", "postgres"]

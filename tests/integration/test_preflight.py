"""`doctor` and the preflight task see each missing right, and say what grants it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.site import with_settings
from tests.support.source import Source

from pgbackup.capture import preflight
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site

RIGHTS = [
    ("reads all data", "REVOKE pg_read_all_data FROM backup", "GRANT pg_read_all_data TO backup"),
    ("may replicate", "ALTER ROLE backup NOREPLICATION", "ALTER ROLE backup REPLICATION"),
    ("sees past row security", "ALTER ROLE backup NOBYPASSRLS", "ALTER ROLE backup BYPASSRLS"),
    ("monitors", "REVOKE pg_monitor FROM backup", "GRANT pg_monitor TO backup"),
    (
        "reads large objects",
        "ALTER ROLE backup RESET lo_compat_privileges",
        "ALTER ROLE backup SET lo_compat_privileges = on",
    ),
]


@pytest.fixture(scope="module")
def own() -> Source:
    source = Source()
    source.load_sample("streamflix")
    yield source
    source.remove()


def failed(site: Site) -> dict[str, Finding]:
    return {finding.name: finding for finding in preflight(site, "streamflix") if not finding.ok}


def test_the_sample_has_everything(own: Source, site_for: Callable[..., Site]) -> None:
    grants = "GRANT EXECUTE ON FUNCTION pg_switch_wal(), pg_create_restore_point(text) TO backup"
    own.execute(grants)  # function rights are per database, and the connection's is `postgres` here
    assert failed(site_for(own)) == {}


@pytest.mark.parametrize(("name", "take_away", "give_back"), RIGHTS, ids=[right[0] for right in RIGHTS])
def test_a_missing_right_is_named_with_its_grant(
    own: Source, site_for: Callable[..., Site], name: str, take_away: str, give_back: str
) -> None:
    site = site_for(own)
    own.execute(take_away)
    try:
        found = failed(site)
    finally:
        own.execute(give_back)
    assert f"role {name}" in found
    assert give_back in found[f"role {name}"].hint


def test_a_database_that_refuses_us_is_named(own: Source, site_for: Callable[..., Site]) -> None:
    own.execute("REVOKE CONNECT ON DATABASE streamflix FROM PUBLIC, backup")
    try:
        found = failed(site_for(own))
    finally:
        own.execute("GRANT CONNECT ON DATABASE streamflix TO backup, PUBLIC")
    assert "may connect to 'streamflix'" in found


def test_a_client_package_without_pg_waldump_is_not_enough(
    own: Source, site_for: Callable[..., Site], tmp_path: Path
) -> None:
    """As Debian's: it is found before the night, unless no base is wanted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("pg_dump", "pg_dumpall", "pg_basebackup", "pg_receivewal"):
        (folder / name).symlink_to(own.bin / name)
    site = site_for(own)
    paths = site.settings.paths.model_copy(update={"postgres_bin": folder})
    site = dataclasses.replace(site, settings=site.settings.model_copy(update={"paths": paths}))
    finding = failed(site)["client programs fit the server"]
    assert finding.detail == f"pg_waldump not in {folder}"
    assert "install postgresql-18" in finding.hint
    dump_only = site.settings.cluster("streamflix").full_backup.model_copy(update={"base": False})
    assert "client programs fit the server" not in failed(with_settings(site, full_backup=dump_only))


def test_a_server_that_is_down_is_one_finding_not_an_error(own: Source, site_for: Callable[..., Site]) -> None:
    parameters = own.parameters().replace(port="1")
    found = failed(site_for(own, parameters=parameters))
    assert list(found) == ["server answers"]
    assert "is the server running" in found["server answers"].hint

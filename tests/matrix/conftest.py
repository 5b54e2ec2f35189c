"""The protected server, its catalog and its programs, once for each major version that ``make test-matrix`` names."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.test_fingerprints import load_types
from tests.support.source import Source

MAJORS = os.environ.get("PGBACKUP_MAJORS", "15 16 17 18").split()


@pytest.fixture(scope="session", params=MAJORS)
def server(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A server of one major version with the sample database and one of every type; the other fixtures stand on it."""
    source = Source(int(request.param))
    try:
        source.load_sample("streamflix")
        load_types(source)
        source.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal(), pg_create_restore_point(text) TO backup")
        if source.major >= 17:
            source.execute("ALTER SYSTEM SET summarize_wal = on")
            source.execute("SELECT pg_reload_conf()")
        yield source
    finally:
        source.remove()

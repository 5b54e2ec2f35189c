"""One setting for every pg_dump, also for those that know gzip only."""

from __future__ import annotations

import pytest

from pgbackup.postgres.dump import compression_for


@pytest.mark.parametrize("method", ["none", "gzip", "gzip:9", "lz4", "zstd:1"])
def test_since_16_it_is_passed_on(method: str) -> None:
    assert compression_for(method, "16.15") == method


@pytest.mark.parametrize(
    ("method", "level"), [("none", "0"), ("gzip", "6"), ("gzip:9", "9"), ("lz4:3", "1"), ("zstd:19", "1")]
)
def test_before_it_is_a_level_of_gzip(method: str, level: str) -> None:
    assert compression_for(method, "15.19") == level

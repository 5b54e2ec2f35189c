"""Servers, keys and sites for all tests; each is real, and started once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pgbackup.domain.ports import Site
from tests.support.faulty import FaultyWay
from tests.support.keys import KeyPair, make_key
from tests.support.s3 import Region
from tests.support.site import make_site
from tests.support.source import LIBRARY, Source, small_server

# The same examples on every machine, however slow it is: a red run means the change, not the dice or the neighbours.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[Source]:
    """A protected server without databases of its own; role ``backup`` as the product asks for."""
    source = Source()
    try:
        source.load_sample("streamflix")
        yield source
    finally:
        source.remove()


@pytest.fixture(scope="session")
def streamflix(server: Source) -> Source:
    """The server with the sample database, which no test changes."""
    return server


@pytest.fixture(scope="session")
def library() -> Iterator[Source]:
    """A server of its own with one small database, ``library``, that no test changes: captured in a quarter second."""
    with small_server("library", LIBRARY) as own:
        yield own


@pytest.fixture
def source() -> Iterator[Source]:
    """A server of the test's own, with the sample database: it may be changed, stopped, killed."""
    own = Source()
    try:
        own.load_sample("streamflix")
        yield own
    finally:
        own.remove()


@pytest.fixture
def catalog_dsn(server: Source) -> Iterator[str]:
    """An empty catalog database of the test's own."""
    name = f"catalog{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name} IS_TEMPLATE = false")
    yield f"host={server.folder} port={server.port} user=postgres dbname={name}"
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """The key pair of the verifying side."""
    return make_key(tmp_path_factory.mktemp("keys"), "operations")


@pytest.fixture(scope="session")
def region() -> Iterator[Region]:
    """An S3 server with a bucket; tests take a prefix of their own."""
    own = Region()
    try:
        yield own
    finally:
        own.remove()


@pytest.fixture
def way(region: Region) -> Iterator[FaultyWay]:
    """A way to that server on which things go wrong."""
    own = FaultyWay(region.port + 3)
    try:
        yield own
    finally:
        own.close()


@pytest.fixture
def site_for(tmp_path: Path, catalog_dsn: str, key: KeyPair) -> Callable[..., Site]:
    """Make a site that protects a given server, encrypted unless told otherwise."""

    def make(source: Source, *, encrypted: bool = True, **options: Any) -> Site:
        options.setdefault("exclude_databases", [f"catalog{number}" for number in range(5000)])
        return make_site(tmp_path, source, catalog_dsn, key if encrypted else None, **options)

    return make

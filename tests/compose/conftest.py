"""One engine and one stack for all tests: gone with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.airflow_e2e import rest
from tests.compose.engine import Engine, running
from tests.compose.stack import Stack
from tests.support.source import ROOT


@pytest.fixture(scope="session")
def patience() -> Iterator[None]:
    """Images are built and thirteen services start: waits end later than with processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rest, "LIMIT", 600.0)
        yield


@pytest.fixture(scope="session")
def engine(patience: None) -> Iterator[Engine]:
    with running() as engine:
        yield engine


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """The images by the variables of docker-compose.yaml: ours serve where it would take others'."""
    engine.bootstrap()
    pgbackup, local = engine.build("pgbackup"), engine.build("local")
    return {"PGBACKUP_IMAGE": pgbackup, "POSTGRES_IMAGE": pgbackup, "LOCAL_IMAGE": local, "REDIS_IMAGE": local}


@pytest.fixture(scope="session")
def stack(engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services, healthy."""
    secrets = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([ROOT / "include/compose/secrets.sh", secrets], check=True, capture_output=True)
    stack = Stack(engine, secrets, images)
    try:
        stack.up()
        yield stack
    finally:
        stack.close()
        stack.compose("--profile", "local", "--profile", "script", "down", "--volumes", "--timeout", "20", check=False)
        left = engine.docker("ps", "--all", "--quiet") + engine.docker("volume", "ls", "--quiet")
    assert not left

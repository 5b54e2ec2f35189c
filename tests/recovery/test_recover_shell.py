"""Databases and tables recovered as the on-call engineer does it: from a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.source import LIBRARY, Source, small_server, write_services


@pytest.fixture(scope="module")
def place() -> Iterator[Source]:
    with small_server("library", LIBRARY) as own:
        yield own


Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(place: Source, catalog_dsn: str, tmp_path: Path) -> Shell:
    services = {
        "streamflix": {"host": str(place.folder), "port": place.port, "user": "backup", "dbname": "postgres"},
        "recovery": {"host": str(place.folder), "port": place.port, "user": "postgres", "dbname": "postgres"},
        "catalog": dict(part.split("=") for part in catalog_dsn.split()),
    }
    write_services(tmp_path / "pg_service.conf", services)
    document = {
        "version": 1,
        "paths": {
            "backups": str(tmp_path / "backups"),
            "logs": str(tmp_path / "logs"),
            "service_file": str(tmp_path / "pg_service.conf"),
            "postgres_bin": str(place.bin),
        },
        "catalog": {"service": "catalog"},
        "encryption": {"enabled": False},
        "clusters": {
            "streamflix": {
                "connection": {"service": "streamflix"},
                "recovery_connection": {"service": "recovery"},
                "verify_backup": {
                    "application_role": "app",
                    "queries": [{"database": "library", "sql": "SELECT count(*) FROM book"}],
                },
            }
        },
    }
    config = tmp_path / "protocol.yaml"
    config.write_text(yaml.safe_dump(document))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("pgbackup")), *arguments]
        env = {**os.environ, "PGBACKUP_CONFIG": str(config)}
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    return run


def done(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_night_with_a_lost_table_and_a_lost_database(shell: Shell, place: Source) -> None:
    [made] = done(shell("backup", "full", "--dump-only", "--verify", "--json"))
    recovered = done(shell("recover", "database", "library", "--json"))
    assert recovered["origin"]["backup_id"] == made["id"]
    assert {finding["name"] for finding in recovered["findings"] if finding["ok"]} >= {
        "rows and contents equal the source",
        "application role connects",
        "application queries answer in time",
    }

    place.execute("DELETE FROM book", "library")
    beside = done(shell("recover", "table", "library", "public.book", "--json"))
    assert (beside["rows"], beside["missing"], beside["violations"]) == (4000, 4000, [])
    refused = shell("recover", "table", "library", "public.book", "--in-place", "--yes-replace", "other")
    assert refused.returncode == 2
    assert "--yes-replace streamflix" in refused.stderr
    replaced = shell("recover", "table", "library", "public.book", "--in-place", "--yes-replace", "streamflix")
    assert replaced.returncode == 0, replaced.stderr
    assert "4000 rows are in public.book" in replaced.stdout
    assert shell("recover", "table", "library", "public.no", "--merge").returncode == 1

    refused = shell("recover", "cutover", "library", recovered["name"])
    assert refused.returncode == 2
    assert "becomes 'library_before_" in refused.stdout
    cutover = shell("recover", "cutover", "library", recovered["name"], "--yes-replace", "streamflix")
    assert cutover.returncode == 0, cutover.stderr
    old = shell("recover", "old")
    assert "DROP DATABASE" in old.stdout
    assert "library_before_" in old.stdout

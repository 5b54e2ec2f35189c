"""The house's import table, held by reading every module: imports go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.source import ROOT

PLUGINS = ROOT / "plugins"
VERBS = {
    "capture",
    "verify",
    "wal",
    "watch",
    "report",
    "recover",
    "drill",
    "rotate",
    "copy",
    "adopt",
    "sheet",
    "keys",
    "audit",
    "review",
    "overview",
}
MIDDLE = {"catalog", "store", "stream", "postgres"}
# package -> what it may import of ours, besides itself
TABLE: dict[str, set[str]] = {
    "domain": set(),
    "scratch": set(),
    "shelf": {"domain", "scratch"},
    **{name: {"domain", "scratch"} for name in MIDDLE},
    "restore": {"domain", *MIDDLE},
    "capture": {"domain", "restore", "scratch", *MIDDLE},
    "verify": {"domain", "scratch", "restore", *MIDDLE},
    "wal": {"domain", "scratch", "restore", *MIDDLE},
    "watch": {"domain", "restore", *MIDDLE},
    "copy": {"domain", "restore", *MIDDLE},
    "recover": {"domain", "scratch", "restore", *MIDDLE},
    "drill": {"domain", "scratch", "restore", "recover", "verify", *MIDDLE},
    "rotate": {"domain", "restore", *MIDDLE},
    "keys": {"domain", "scratch", "restore", *MIDDLE},
    "adopt": {"domain", "scratch", "restore", "capture", *MIDDLE},
    "sheet": {"domain", "restore", *MIDDLE},
    "audit": {"domain", "restore", "shelf", *MIDDLE},
    "review": {"domain", "restore", "watch", "rotate", "shelf", *MIDDLE},
    "report": {"domain", "catalog"},
    "overview": {"domain", "restore", *MIDDLE},
    "assembly": {"domain", *MIDDLE},
    "cli": {"domain", "restore", "assembly", "shelf", *VERBS},
}
ADAPTER = {
    "domain",
    "assembly",
    "postgres",
    "store",
    "capture",
    "verify",
    "watch",
    "recover",
    "drill",
    "report",
    "rotate",
    "copy",
    "overview",
    "sheet",
    "keys",
    "audit",
    "review",
    "shelf",
}
PURE = {"os", "subprocess", "time", "logging", "socket", "psycopg", "boto3", "yaml", "random", "secrets"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import (Airflow's plugin loader cannot follow it)"
            yield node.module or ""


def modules(package: str) -> list[Path]:
    return sorted((PLUGINS / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules("pgbackup"), ids=lambda path: str(path.relative_to(PLUGINS)))
def test_the_engine_imports_one_way(path: Path) -> None:
    package = path.relative_to(PLUGINS / "pgbackup").parts[0].removesuffix(".py")
    if package == "__init__":
        assert not list(imports(path))
        return
    for name in imports(path):
        assert name.split(".")[0] not in {"airflow", "pgbackup_airflow"}, f"{path} imports {name}"
        if name.startswith("pgbackup."):
            target = name.split(".")[1]
            assert target == package or target in TABLE[package], f"{package} may not import {target}"
        if package == "domain":
            assert name.split(".")[0] not in PURE, f"{path}: the domain does no I/O and reads no clock ({name})"
        if package != "stream":
            assert name.split(".")[0] != "subprocess", f"{path}: only stream starts programs"


@pytest.mark.parametrize("path", modules("pgbackup_airflow"), ids=lambda path: str(path.relative_to(PLUGINS)))
def test_the_adapter_stays_thin(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in {"subprocess", "psycopg", "boto3", "sqlalchemy"}, f"{path} imports {name}"
        if name.startswith("pgbackup."):
            assert name.split(".")[1] in ADAPTER, f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "dags").glob("*.py")), ids=lambda path: path.name)
def test_dags_are_wiring_only(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] in {"airflow", "pgbackup_airflow", "pgbackup"}, f"{path} imports {name}"
        assert not name.startswith("pgbackup.") or name == "pgbackup.domain.settings", f"{path} imports {name}"


@pytest.mark.parametrize("package", ["pgbackup", "pgbackup_airflow"])
def test_no_module_is_named_like_one_of_the_standard_library(package: str) -> None:
    own = {path.stem for path in modules(package)} - {"__init__", "__main__"}
    assert not own & sys.stdlib_module_names


def test_the_engine_runs_without_airflow() -> None:
    program = (
        "import sys, importlib, pkgutil; sys.modules['airflow'] = None; import pgbackup\n"
        "for module in pkgutil.walk_packages(pgbackup.__path__, 'pgbackup.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, env={"PYTHONPATH": str(PLUGINS)})

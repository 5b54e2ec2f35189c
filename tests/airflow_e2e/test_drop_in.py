"""The package dropped into somebody's own Airflow: dags/, plugins/, include/ copied, the requirements installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.support.source import ROOT

THEIRS = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("theirs", schedule=None):
    EmptyOperator(task_id="nothing")
"""
THEIR_PLUGIN = """
from airflow.plugins_manager import AirflowPlugin


class TheirPlugin(AirflowPlugin):
    name = "theirs"
"""


CONFIGURATION = """
version: 1
catalog: {airflow_conn_id: pgbackup_catalog}
encryption: {enabled: false}
repositories: {vault: {folder: /mnt/vault}}
clusters:
  streamflix:
    connection: {airflow_conn_id: streamflix}
"""


class Home:
    """An AIRFLOW_HOME like one that has been there for long, with a DAG and a plugin of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, module in (("dags", THEIRS), ("plugins", THEIR_PLUGIN)):
            (folder / name).mkdir(parents=True)
            (folder / name / "theirs.py").write_text(module)
        for name in ("dags", "plugins", "include"):
            ours = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=ours)
        (folder / "protocol.yaml").write_text(CONFIGURATION)
        shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__", "images"))

    def run(self, *arguments: str) -> str:
        """Run a module with what is installed but this checkout: of a folder on PYTHONPATH no .pth file is read."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        environment = {
            **kept,
            "HOME": str(self.folder),
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PGBACKUP_CONFIG": str(self.folder / "protocol.yaml"),
            "PYTHONPATH": sysconfig.get_paths()["purelib"],
        }
        python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        argv = [str(python), *arguments]
        done = subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def airflow(self, *arguments: str) -> Any:
        """Return what a command says as JSON."""
        lines = self.run("-m", "airflow", *arguments, "--output", "json").splitlines()
        return json.loads(lines[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("dropped") / "airflow")


@pytest.mark.timeout(600)
def test_it_lives_beside_what_was_there(home: Home) -> None:
    home.run("-m", "airflow", "db", "migrate")
    home.run("-m", "airflow", "dags", "reserialize")
    assert home.airflow("dags", "list-import-errors") == []
    found = {one["dag_id"]: one["fileloc"] for one in home.airflow("dags", "list")}
    ours = {f"streamflix_{path.stem}" for path in (ROOT / "dags").glob("*.py")}
    assert ours | {"theirs"} == set(found)
    assert all(Path(place).is_relative_to(home.folder) for place in found.values())
    assert {"pgbackup", "theirs"} <= {one["name"] for one in home.airflow("plugins")}

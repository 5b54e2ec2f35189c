"""How long Airflow's DAG processor takes for each DAG file: python -m bench.parse [clusters] (100) [rounds] (5).

A fresh process a file and round, as the DAG processor forks one: what it has imported itself is imported before the
clock starts, everything of ours and of the providers is not. On a busy machine look at the processor's seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def document(clusters: int) -> dict[str, Any]:
    """A configuration as a fleet has one: two repositories, a queue for each four clusters, a bit of each section."""

    def cluster(number: int) -> dict[str, Any]:
        name = f"cluster{number:03}"
        return {
            "connection": {"airflow_conn_id": name, "service": name},
            "queue": f"host{number // 4:02}",
            "full_backup": {"schedule": f"{number % 60} {2 + number // 60 % 3} * * *", "due": "2h"},
            "wal": {"slot": "pgbackup", "retained": "20GB"},
            "verify_backup": {
                "application_role": "app",
                "queries": [{"database": "app", "sql": "SELECT count(*) FROM account", "within": "5s"}],
            },
            "retention": {"daily": "30d", "weekly": "12w"},
        }

    return {
        "version": 1,
        "catalog": {"airflow_conn_id": "pgbackup_catalog"},
        "encryption": {"enabled": False},
        "mail": {"sender": "backup@example.com", "recipients": ["dba@example.com"]},
        "capture_pool": "captures",
        "repositories": {name: {"s3": {"bucket": name, "airflow_conn_id": name}} for name in ("eu", "us")},
        "clusters": {f"cluster{number:03}": cluster(number) for number in range(clusters)},
    }


def parse(path: str) -> dict[str, float]:
    """Parse one file; what is returned is seconds, and how many DAGs there are."""
    from airflow.dag_processing import processor  # noqa: F401, PLC0415, TID251 - what the DAG processor itself imports
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415, TID251
    from airflow.serialization.serialized_objects import DagSerialization  # noqa: PLC0415, TID251

    started, idle = time.perf_counter(), time.process_time()
    bag = DagBag(dag_folder=path)
    parsed, used = time.perf_counter(), time.process_time()
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    serialized = time.process_time()
    if bag.import_errors:
        raise SystemExit(str(bag.import_errors))
    return {"wall": parsed - started, "parse": used - idle, "serialize": serialized - used, "dags": len(bag.dags)}


def measure(path: Path, home: Path) -> dict[str, float]:
    """Let a fresh process parse a file."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "PGBACKUP_CONFIG": str(home / "protocol.yaml"),
    }
    argv = [sys.executable, "-m", "bench.parse", "--one", str(path)]
    done = subprocess.run(argv, env=environment, cwd=home, check=True, capture_output=True, text=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main(clusters: int, rounds: int) -> None:
    """Print the median of each file, the slowest first."""
    with tempfile.TemporaryDirectory(prefix="parse", dir="/tmp") as folder:
        home = Path(folder)
        (home / "protocol.yaml").write_text(yaml.safe_dump(document(clusters)))
        found = {}
        for path in sorted((ROOT / "dags").glob("*.py")):
            taken = [measure(path, home) for _ in range(rounds)]
            found[path.name] = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
    print(f"{clusters} clusters, median of {rounds}; seconds of processor, and of the clock")
    print(f"{'file':28}{'dags':>6}{'parse':>9}{'serialize':>11}{'clock':>9}")
    for name, one in sorted(found.items(), key=lambda item: -item[1]["parse"]):
        print(f"{name:28}{one['dags']:6.0f}{one['parse']:9.2f}{one['serialize']:11.2f}{one['wall']:9.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(parse(sys.argv[2])))
    else:
        main(*(int(word) for word in (sys.argv[1:] + ["100", "5"][len(sys.argv) - 1 :])))

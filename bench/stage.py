"""What a benchmark runs on: a server with the sample data, a catalog, keys, a configuration, and one timed step."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from pgbackup.domain.model import ConnectionParameters
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.stream import Processes

ROOT = Path(__file__).resolve().parents[1]
README = Path(__file__).with_name("README.md")
ANY_BIN = ROOT / ".cache" / "postgresql" / "{major}" / "bin"
BIN = Path(str(ANY_BIN).format(major=18))
# A source as a user has it: durable, with WAL for standbys. Only autovacuum is off, so that rounds are alike.
SOURCE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
}


@dataclass(frozen=True)
class Stage:
    """A prepared machine. ``server`` is the source's; ``source`` is how backups reach it."""

    folder: Path
    server: ThrowAwayServer
    source: ConnectionParameters
    superuser: ConnectionParameters
    catalog: ConnectionParameters

    def configure(self, **cluster: Any) -> Path:
        """Write a protocol.yaml whose cluster section is given; ``encrypted`` chooses GPG, ``backups`` the folder,
        ``repositories`` what there is besides.
        """
        encrypted = cluster.pop("encrypted")
        backups = cluster.pop("backups", "backups")
        repositories = cluster.pop("repositories", {})
        services = {"source": self.source, "catalog": self.catalog}
        text = "\n".join(
            f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in parameters.keywords.items())
            for name, parameters in services.items()
        )
        (self.folder / "pg_service.conf").write_text(text)
        keys = self.folder / "keys"
        document = {
            "version": 1,
            "paths": {
                "backups": str(self.folder / backups),
                "logs": str(self.folder / "logs"),
                "postgres_bin": str(ANY_BIN),
                "service_file": str(self.folder / "pg_service.conf"),
            },
            "repositories": repositories,
            "catalog": {"service": "catalog"},
            "encryption": {
                "enabled": encrypted,
                "recipients": [str(keys / "public.asc")],
                "private_keys": [str(keys / "private.asc")],
            },
            "clusters": {"bench": {"connection": {"service": "source"}, **cluster}},
        }
        path = self.folder / f"protocol-{abs(hash(json.dumps(document)))}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path


@contextmanager
def stage(scale: float, *, major: int = 18, settings: Mapping[str, str] = SOURCE) -> Iterator[Stage]:
    """Make everything in one folder under /tmp, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pgbench-", dir="/tmp"))
    runner = Processes()
    try:
        with ExitStack() as stack:
            source = Programs(Path(str(ANY_BIN).format(major=major)))
            servers = {
                "source": ThrowAwayServer(folder / "source", source, runner, "postgres", major, settings),
                "catalog": ThrowAwayServer(folder / "catalog", Programs(BIN), runner, "postgres", 18),
            }
            running = {}
            for name, server in servers.items():
                server.create()
                with (server.data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
                    rules.write("local replication all trust\n")
                running[name] = stack.enter_context(server.running())
            prepare(running, scale)
            make_keys(folder / "keys")
            yield Stage(
                folder,
                servers["source"],
                source=running["source"].replace(user="backup", dbname="streamflix"),
                superuser=running["source"].replace(dbname="streamflix"),
                catalog=running["catalog"].replace(dbname="catalog"),
            )
    finally:
        runner.terminate()
        shutil.rmtree(folder, ignore_errors=True)


def prepare(servers: dict[str, ConnectionParameters], scale: float) -> None:
    """Make the databases and load the sample."""
    for name, database in (("source", "streamflix"), ("catalog", "catalog")):
        with psycopg.connect(**servers[name].keywords, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
    keywords = servers["source"].keywords
    subprocess.run(
        [
            str(BIN / "psql"),
            "-X",
            "-q",
            "-h",
            keywords["host"],
            "-p",
            keywords["port"],
            "-U",
            keywords["user"],
            "-d",
            "streamflix",
            "-v",
            f"scale={scale}",
            "-f",
            str(ROOT / "include/sql/streamflix/load.sql"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def make_keys(folder: Path) -> None:
    """Make a key pair without a passphrase."""
    folder.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        subprocess.run(
            [*gpg, "--quick-generate-key", "bench@example.com", "future-default", "default", "never"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        for name, option in (("public", "--export"), ("private", "--export-secret-keys")):
            text = subprocess.run([*gpg, "--armor", option], check=True, capture_output=True).stdout
            (folder / f"{name}.asc").write_bytes(text)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def pgbackup(config: Path, *arguments: str) -> tuple[float, int, Any]:
    """Run the command line as its user does; return seconds, the worker's peak memory in bytes, and its JSON."""
    program = (
        "import sys, re, atexit\n"
        "from pathlib import Path\n"
        "peak = lambda: re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "atexit.register(lambda: print('peak', peak(), file=sys.stderr))\n"
        "from pgbackup.cli import main\n"
        "main()\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--json"],
        env={**os.environ, "PGBACKUP_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    if done.returncode != 0:
        raise SystemExit(f"pgbackup {' '.join(arguments)} failed: {done.stderr}")
    return seconds, int(done.stderr.split("peak ")[-1]) * 1024, json.loads(done.stdout)


def write_table(name: str, table: str) -> None:
    """Put a table into the README, between its marks."""
    print(table)
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(start)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


def machine() -> str:
    """Name the machine."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    return f"{os.cpu_count()} cores {model}, {memory:.0f} GiB, {platform.system()} {platform.release()}"

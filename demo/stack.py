"""The units of the demo: what runs, after what, and when it counts as ready."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx

from demo.airflow_settings import environment
from demo.layout import LOOPBACK, Layout, load_secrets, read_ports
from demo.postgres import Server
from demo.processes import dying_with_parent
from demo.supervisor import Unit

CHECKOUT = Path(__file__).resolve().parent.parent
DATABASES, HELPERS, AIRFLOW = 0, 1, 2  # waves: what stops first has the highest number
COMPONENTS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}


def ops_server(layout: Layout, ports: Mapping[str, int]) -> Server:
    """Holds Airflow's metadata and the catalog of the backups."""
    return Server("ops", layout.postgres, layout.data("ops"), layout.sockets, ports["ops"])


def streamflix_server(layout: Layout, ports: Mapping[str, int]) -> Server:
    """The server that is protected."""
    settings = {
        "wal_level": "replica",
        "summarize_wal": "on",
        "archive_timeout": "300",
        "max_wal_senders": "10",
        "max_replication_slots": "10",
        "wal_keep_size": "64MB",
        "log_checkpoints": "on",
        "track_commit_timestamp": "on",
    }
    return Server(
        "streamflix",
        layout.postgres,
        layout.data("streamflix"),
        layout.sockets,
        ports["streamflix"],
        settings,
    )


class AirflowHealth:
    """Asks the API server how Airflow's components are, at most once a second."""

    def __init__(self, port: int) -> None:
        self.client = httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=2, trust_env=False)
        self.asked = 0.0
        self.answer: dict[str, dict[str, str | None]] = {}
        self.since: dict[str, datetime] = {}

    def ask(self) -> dict[str, dict[str, str | None]]:
        """The last answer, by component; empty while there is none."""
        if time.monotonic() - self.asked >= 1:
            try:
                self.answer = self.client.get("/api/v2/monitor/health").raise_for_status().json()
            except (httpx.HTTPError, ValueError):
                self.answer = {}
            self.asked = time.monotonic()
        return self.answer

    def api_server(self, _pid: int) -> bool:
        """Whether the API server answers and reaches the metadata database."""
        return self.ask().get("metadatabase", {}).get("status") == "healthy"

    def component(self, name: str, _pid: int) -> bool:
        """Whether a component has sent a heartbeat since it was started (not: in its former life)."""
        since = self.since.setdefault(name, datetime.now(UTC))
        status = self.ask().get(name, {})
        beat = status.get(f"latest_{name}_heartbeat")
        return status.get("status") == "healthy" and beat is not None and datetime.fromisoformat(beat) >= since


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def receives(layout: Layout, pid: int) -> bool:
    """Whether the WAL receiver with this pid says that WAL is coming."""
    try:
        said = json.loads((layout.received / "status.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(said["pid"] == pid and said["receiving"])


def units() -> Sequence[Unit]:
    """Every unit of the demo in this checkout."""
    layout = Layout(CHECKOUT)
    ports, secrets = read_ports(layout), load_secrets(layout)
    return [*database_units(layout, ports), *airflow_units(layout, ports, secrets)]


def python(*arguments: str) -> list[str]:
    """A command of our own Python."""
    return dying_with_parent([sys.executable, *arguments])


def database_units(layout: Layout, ports: Mapping[str, int]) -> Sequence[Unit]:
    """The servers, what fills them, what receives their WAL, keys and mailbox."""

    def step(name: str, *after: str) -> Unit:
        return Unit(name, python("-m", "demo.bootstrap", name), after, task=True, wave=AIRFLOW)

    def server(server: Server, *, held: Path | None = None) -> Unit:
        return Unit(
            server.name,
            server.command(),
            (f"create-{server.name}",),
            is_ready=server.is_ready,
            stop=server.stop_signal,
            patience=60,
            wave=DATABASES,
            held=held,
        )

    mail = python("-m", "demo.mail_server", str(ports["smtp"]), str(layout.mail))
    receive = python("-m", "pgbackup.cli", "wal", "receive")
    return [
        step("create-ops"),
        step("create-streamflix"),
        server(ops_server(layout, ports)),
        server(streamflix_server(layout, ports), held=layout.held("streamflix")),
        step("keys"),
        step("ops-databases", "ops"),
        step("sample", "streamflix"),
        step("slot", "sample"),
        Unit(
            "wal-receiver",
            receive,
            ("slot", "keys"),
            is_ready=lambda pid: receives(layout, pid),
            environment=os.environ | {"PGBACKUP_CONFIG": str(layout.protocol)},
            patience=30,
            wave=HELPERS,
        ),
        Unit("mail", mail, is_ready=lambda _pid: listens(ports["smtp"]), wave=HELPERS),
    ]


def airflow_units(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> Sequence[Unit]:
    """The metadata database's schema and the four components."""
    settings = {**os.environ, **environment(layout, ports, secrets)}
    airflow = str(Path(sys.executable).with_name("airflow"))
    health = AirflowHealth(ports["ui"])

    def command(*arguments: str) -> list[str]:
        return dying_with_parent([airflow, *arguments])

    def component(name: str, *options: str) -> Unit:
        def is_ready(pid: int) -> bool:
            return health.component(COMPONENTS[name], pid)

        return Unit(
            name,
            command(name, *options),
            ("metadata",),
            is_ready=is_ready,
            environment=settings,
            patience=20,
            wave=AIRFLOW,
        )

    return [
        Unit(
            "metadata",
            command("db", "migrate"),
            ("ops-databases",),
            task=True,
            environment=settings,
            wave=AIRFLOW,
        ),
        Unit(
            "api-server",
            command("api-server"),
            ("metadata",),
            is_ready=health.api_server,
            environment=settings,
            wave=AIRFLOW,
        ),
        # no log servers: they would listen on every address, and the API server reads the files itself
        component("scheduler", "--skip-serve-logs"),
        component("dag-processor"),
        component("triggerer", "--skip-serve-logs"),
    ]

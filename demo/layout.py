"""Where the demo keeps things, and the ports and secrets it chose once and remembers."""

import base64
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
PG_MAJOR = "18"
PREFERRED_PORTS = {"ui": 8080, "streamflix": 5532, "ops": 5533, "smtp": 2525}
LONGEST_SOCKET_DIRECTORY = 90  # a socket's path ends at 107 bytes, its name included
HEX_SECRETS = (
    *("ops_superuser", "streamflix_superuser", "airflow_database", "pgbackup_catalog"),
    *("backup", "app", "readonly", "api_secret", "jwt", "gpg_passphrase"),
)


@dataclass(frozen=True)
class Layout:
    """The checkout at ``root`` and the demo's folder inside it."""

    root: Path

    @property
    def home(self) -> Path:
        """Everything the demo writes; git-ignored."""
        return self.root / ".demo"

    @property
    def postgres(self) -> Path:
        """The unpacked PostgreSQL programs."""
        return self.root / ".cache" / "postgresql" / PG_MAJOR

    @property
    def sample(self) -> Path:
        """The script that makes the StreamFlix database."""
        return self.root / "include" / "sql" / "streamflix" / "load.sql"

    @property
    def sample_marker(self) -> Path:
        """Exists once the sample was loaded to the end; says at which scale."""
        return self.home / "postgres" / "streamflix.loaded"

    @property
    def logs(self) -> Path:
        """One file per unit: what it said on stdout and stderr."""
        return self.home / "log"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME."""
        return self.home / "airflow"

    @property
    def mail(self) -> Path:
        """Every mail received, one .eml file each."""
        return self.home / "mail"

    @property
    def keys(self) -> Path:
        """The key pair of the backups."""
        return self.home / "keys"

    @property
    def protocol(self) -> Path:
        """The engine's configuration (PGBACKUP_CONFIG)."""
        return self.home / "protocol.yaml"

    @property
    def received(self) -> Path:
        """Where the WAL receiver writes."""
        return self.home / "backups" / ".received" / "streamflix"

    @property
    def service_file(self) -> Path:
        """Connection services for the command line (PGSERVICEFILE)."""
        return self.home / "pg_service.conf"

    @property
    def passfile(self) -> Path:
        """Passwords for the command line (PGPASSFILE)."""
        return self.home / "pgpass"

    @property
    def state(self) -> Path:
        """What the supervisor last said of its units."""
        return self.home / "state.json"

    @property
    def pid_file(self) -> Path:
        """Pid and start time of the supervisor."""
        return self.home / "supervisor.pid"

    @property
    def lock(self) -> Path:
        """Held while a supervisor, or anything that it started, lives."""
        return self.home / "supervisor.lock"

    def held(self, unit: str) -> Path:
        """Exists while a unit that may be down is not to be started."""
        return self.home / f"{unit}.held"

    @property
    def sockets(self) -> Path:
        """Where the PostgreSQL servers put their sockets: short enough for the operating system."""
        inside = self.home / "run"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_DIRECTORY:
            return inside
        return Path(tempfile.gettempdir()) / f"streamflix-demo-{os.geteuid()}-{self.home.stat().st_ino}"

    def data(self, server: str) -> Path:
        """The data directory of a PostgreSQL server."""
        return self.home / "postgres" / server

    def make(self) -> None:
        """Make the folders; all but the way to the data directories are private."""
        self.home.mkdir(mode=0o711, exist_ok=True)
        for folder in (self.home / "postgres", self.sockets):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        for folder in (self.logs, self.airflow, self.mail, self.keys):
            folder.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in one step, readable by the owner alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


def is_free(port: int) -> bool:
    """Whether something could listen on ``port`` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free now, of the operating system's choice."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def read_ports(layout: Layout) -> dict[str, int]:
    """The ports chosen by `choose_ports`, by name."""
    return {str(name): int(port) for name, port in json.loads((layout.home / "ports.json").read_text()).items()}


def choose_ports(layout: Layout) -> dict[str, int]:
    """The remembered or preferred ports, free ones where a stranger listens; remembered from now on.

    To be called only while the demo does not run: its own listeners would be taken for strangers.
    """
    try:
        wanted = PREFERRED_PORTS | read_ports(layout)
    except FileNotFoundError:
        wanted = PREFERRED_PORTS
    ports = {name: port if is_free(port) else free_port() for name, port in wanted.items()}
    write_private(layout.home / "ports.json", json.dumps(ports, indent=2) + "\n")
    return ports


def load_secrets(layout: Layout) -> Mapping[str, str]:
    """The demo's passwords and keys, by name: made once, kept with mode 0600."""
    path = layout.home / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    fresh = {name: secrets.token_hex(32) for name in HEX_SECRETS}
    fresh["ui_admin"] = secrets.token_urlsafe(12)
    fresh["fernet"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if fresh.keys() - known.keys():
        known = fresh | known
        write_private(path, json.dumps(known, indent=2) + "\n")
    return known

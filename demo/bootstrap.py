"""The one-off steps of the demo, each a unit of its own.

python -m demo.bootstrap create-ops|create-streamflix|keys|ops-databases|sample|slot
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from demo import config
from demo.keys import make_key_pair
from demo.layout import LOOPBACK, Layout, load_secrets, read_ports
from demo.postgres import PostgresError, Server, encrypted
from demo.stack import CHECKOUT, ops_server, streamflix_server

SLOT_EXISTS = 1
LOGIN_ROLES = ("backup", "app", "readonly")  # made by the sample's script, without passwords


def set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Let ``role`` (made if need be) log in with ``password``."""
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount == 0:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    verifier = encrypted(connection, role, password)
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))


def create_database(connection: psycopg.Connection, name: str, owner: str) -> None:
    """Make a database unless it is there."""
    if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount == 0:
        statement = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))


def prepare_ops(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
    """Roles and databases for Airflow's metadata and for the catalog."""
    with ops_server(layout, ports).connect(secrets["ops_superuser"]) as connection:
        for role, secret in (("airflow", "airflow_database"), ("pgbackup_catalog", "pgbackup_catalog")):
            set_password(connection, role, secrets[secret])
            create_database(connection, role, role)


def create_streamflix(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
    """The protected server's data directory; one whose sample was never loaded to the end is made anew."""
    server = streamflix_server(layout, ports)
    if server.data.exists() and not layout.sample_marker.exists():
        server.remove()
    create(server, secrets["streamflix_superuser"])


def create(server: Server, password: str) -> None:
    """A server's data directory, unless it is there, and its present settings."""
    if not server.data.exists():
        server.create(password)
    server.configure()


def load_sample(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
    """The StreamFlix database (once), then the passwords of its roles."""
    server, password = streamflix_server(layout, ports), secrets["streamflix_superuser"]
    if not layout.sample_marker.exists():
        scale = os.environ.get("DEMO_SCALE", "1")
        with server.connect(password) as connection:
            create_database(connection, config.CLUSTER, "postgres")
        psql = [
            str(layout.postgres / "bin" / "psql"),
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            f"scale={scale}",
        ]
        psql += [
            "-h",
            LOOPBACK,
            "-p",
            str(server.port),
            "-U",
            "postgres",
            "-d",
            config.CLUSTER,
            "-f",
            str(layout.sample),
        ]
        done = subprocess.run(psql, env=os.environ | {"PGPASSFILE": str(layout.passfile)}, check=False)
        if done.returncode != 0:
            raise PostgresError(f"{layout.sample} failed: psql ended with exit status {done.returncode}")
        layout.sample_marker.write_text(f"scale {scale}\n")
    with server.connect(password) as connection:
        for role in LOGIN_ROLES:
            set_password(connection, role, secrets[role])


def create_slot(layout: Layout, _ports: Mapping[str, int], _secrets: Mapping[str, str]) -> None:
    """The WAL receiver's replication slot: once, because one that is made anew would hide a gap."""
    command = [sys.executable, "-m", "pgbackup.cli", "wal", "create-slot"]
    done = subprocess.run(command, env=os.environ | {"PGBACKUP_CONFIG": str(layout.protocol)}, check=False)
    if done.returncode not in {0, SLOT_EXISTS}:
        done.check_returncode()


def prepare_keys(layout: Layout, _ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
    """The key pair of the backups."""
    make_key_pair(layout.keys, secrets["gpg_passphrase"])


STEPS: dict[str, Callable[[Layout, Mapping[str, int], Mapping[str, str]], None]] = {
    "create-ops": lambda layout, ports, secrets: create(ops_server(layout, ports), secrets["ops_superuser"]),
    "create-streamflix": create_streamflix,
    "keys": prepare_keys,
    "ops-databases": prepare_ops,
    "sample": load_sample,
    "slot": create_slot,
}


def main(step: str) -> int:
    """Run one step; 1 when it failed, having said why."""
    layout = Layout(CHECKOUT)
    try:
        STEPS[step](layout, read_ports(layout), load_secrets(layout))
    except (PostgresError, psycopg.Error, OSError, subprocess.CalledProcessError) as error:
        print(f"{step}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""The engine's configuration for the demo: protocol.yaml, and the libpq files for the command line."""

import sys
from collections.abc import Mapping
from typing import Any

import yaml

from demo.layout import LOOPBACK, Layout, write_private

CLUSTER = "streamflix"


def protocol(layout: Layout) -> dict[str, Any]:
    """protocol.yaml as a document: include/config/protocol.yaml explains every key."""
    libpq = {"passfile": str(layout.passfile)}
    return {
        "version": 1,
        "paths": {
            "backups": str(layout.home / "backups"),
            "logs": str(layout.home / "backup-logs"),
            "service_file": str(layout.service_file),
            "postgres_bin": str(layout.postgres / "bin"),
        },
        "catalog": {"airflow_conn_id": "pgbackup_catalog", "service": "pgbackup_catalog", **libpq},
        "encryption": {
            "recipients": [str(layout.keys / "backup.pub.asc")],
            "private_keys": [str(layout.keys / "backup.sec.asc")],
            "passphrase_file": str(layout.keys / "passphrase"),
        },
        "mail": {
            "airflow_conn_id": "pgbackup_smtp",
            "sender": "backup@streamflix.example",
            "recipients": ["dba@streamflix.example"],
        },
        "contacts": [
            {"role": "DBA on call", "name": "Dana Ortiz", "reach": "+1 555 0100"},
            {"role": "Incident commander", "name": "Sam Okafor", "reach": "+1 555 0101"},
        ],
        "clusters": {
            CLUSTER: {
                "connection": {"airflow_conn_id": CLUSTER, "service": CLUSTER, **libpq},
                "recovery_connection": {
                    "airflow_conn_id": f"{CLUSTER}_superuser",
                    "service": f"{CLUSTER}_superuser",
                    **libpq,
                },
                "control": {
                    "data_directory": str(layout.data(CLUSTER)),
                    "stop": demo_command(layout, "stop-server"),
                    "start": demo_command(layout, "start-server"),
                },
                "verify_backup": {"application_role": "app"},
            }
        },
    }


def demo_command(layout: Layout, command: str) -> list[str]:
    """The argv of one of the demo's own commands, from wherever it is called."""
    return ["env", "-C", str(layout.root), sys.executable, "-m", "demo", command]


def write_protocol(layout: Layout) -> None:
    """Write protocol.yaml."""
    text = yaml.safe_dump(protocol(layout), sort_keys=False, allow_unicode=True)
    write_private(
        layout.protocol, "# Written by `make demo`; include/config/protocol.yaml explains every key.\n" + text
    )


def write_libpq_files(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
    """Write the connection services and their password file (0600), for `pgbackup` and `psql service=...`."""
    services = (
        (CLUSTER, ports["streamflix"], "streamflix", "backup", secrets["backup"]),
        (
            f"{CLUSTER}_superuser",
            ports["streamflix"],
            "streamflix",
            "postgres",
            secrets["streamflix_superuser"],
        ),
        (
            "pgbackup_catalog",
            ports["ops"],
            "pgbackup_catalog",
            "pgbackup_catalog",
            secrets["pgbackup_catalog"],
        ),
    )
    sections = (
        f"[{name}]\nhost={LOOPBACK}\nport={port}\ndbname={database}\nuser={user}\n"
        for name, port, database, user, _ in services
    )
    write_private(layout.service_file, "\n".join(sections))
    lines = (f"{LOOPBACK}:{port}:*:{user}:{password}\n" for _, port, _, user, password in services)
    write_private(layout.passfile, "".join(lines))

"""What belongs to no repository: this machine's secrets and logs, the keys' expiry, the role that backs up."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pgbackup.audit import names
from pgbackup.audit.files import audit_logs, audit_secrets
from pgbackup.audit.judge import Wrong, part
from pgbackup.domain.model import Finding, Severity
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Settings
from pgbackup.postgres.connection import connect, server_errors
from pgbackup.postgres.describe import query


def audit_machine(site: Site, clusters: list[str]) -> Iterator[Finding]:
    """Judge what this machine keeps, and the role of each cluster's connection."""
    yield from part(names.SECRETS, lambda: [audit_secrets(_secrets(site.settings))])
    yield from part(names.LOGS, lambda: [audit_logs(site.settings.paths.logs)])
    yield from part(names.EXPIRY, lambda: [_expiry(site)])
    for cluster in clusters:
        name = names.role_of(cluster)
        yield from part(name, partial(_role, site, cluster), Severity.UNKNOWN)


def _secrets(settings: Settings) -> Iterator[Path]:
    encryption, paths = settings.encryption, settings.paths
    connections = [settings.catalog]
    for cluster in settings.clusters.values():
        connections += filter(None, [cluster.connection, cluster.recovery_connection])
    found = [
        *encryption.private_keys,
        encryption.passphrase_file,
        encryption.signing_key,
        encryption.signing_passphrase_file,
        paths.service_file,
        *(one.passfile for one in connections),
        *(paths.spool_folder, paths.received_folder, paths.recovered_folder),
    ]
    return (path for path in found if path is not None)


def _expiry(site: Site) -> Finding:
    """Judge every configured key; one that has no end is fine."""
    before = site.settings.encryption.warn_before
    wrong = Wrong(
        names.EXPIRY,
        "extend the key (gpg --quick-set-expire) and export it again, or replace it and `pgbackup keys add`",
    )
    keys = site.keyring.expiries()
    for key in keys:
        if key.expires is not None and key.expires < site.clock() + before:
            wrong.add(f"the {key.role} {key.path} ({key.fingerprint}) expires on {key.expires:%Y-%m-%d}")
    ends = [key.expires for key in keys if key.expires]
    return wrong.finding(f"{len(keys)} keys" + (f", the first one ends on {min(ends):%Y-%m-%d}" if ends else ""))


def _role(site: Site, cluster: str) -> Iterator[Finding]:
    wrong = Wrong(
        names.role_of(cluster),
        "connect as a role of its own: include/sql/streamflix/roles.sql makes one that only reads",
    )
    with server_errors("the server"), connect(site.connections(cluster)) as connection:
        for (right,) in connection.execute(query("excess_rights")).fetchall():
            wrong.add(str(right))
        yield wrong.finding(f"role {connection.info.user}")

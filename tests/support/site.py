"""A Site over real parts: local repository, real gpg, real catalog, real programs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psycopg

from pgbackup.catalog import PostgresCatalog
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Settings, parse_settings
from pgbackup.store import LocalStore
from pgbackup.stream import GpgKeyring, PlainKeyring, Processes
from tests.support.keys import KeyPair


class Protected(Protocol):
    """What a site needs of the server that it protects."""

    @property
    def bin(self) -> Path: ...

    def parameters(self) -> ConnectionParameters: ...


def make_settings(folder: Path, source: Protected, key: KeyPair | None, **cluster: Any) -> Settings:
    encryption: dict[str, Any] = {"enabled": False}
    if key is not None:
        encryption = {
            "recipients": [str(key.public)],
            "private_keys": [str(key.private)],
            "passphrase_file": str(key.passphrase_file),
        }
    document = {
        "version": 1,
        "paths": {"backups": str(folder / "backups"), "logs": str(folder / "logs"), "postgres_bin": str(source.bin)},
        "catalog": {"service": "catalog"},
        "encryption": encryption,
        "clusters": {"streamflix": {"connection": {"service": "streamflix"}, **cluster}},
    }
    return parse_settings(document, source="the test's settings")


def make_site(
    folder: Path,
    source: Protected,
    catalog_dsn: str,
    key: KeyPair | None = None,
    parameters: ConnectionParameters | None = None,
    owner: str = "test",
    **cluster: Any,
) -> Site:
    settings = make_settings(folder, source, key, **cluster)
    runner = Processes()
    keyring = GpgKeyring(settings.encryption, runner) if key else PlainKeyring()
    connection = parameters or source.parameters()
    return Site(
        settings=settings,
        runner=runner,
        keyring=keyring,
        catalog=PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True)),
        repositories={"local": LocalStore(settings.paths.backups)},
        connections=lambda _cluster: connection,
        recovery_connections=lambda _cluster: connection.replace(user="postgres"),
        clock=lambda: datetime.now(UTC),
        owner=owner,
    )


def with_settings(site: Site, **cluster: Any) -> Site:
    """The same site with other settings of the cluster."""
    changed = {name: section.model_copy(update=cluster) for name, section in site.settings.clusters.items()}
    return dataclasses.replace(site, settings=site.settings.model_copy(update={"clusters": changed}))

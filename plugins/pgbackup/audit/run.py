"""The storage audit: every repository by itself, and this machine. Nothing is changed, no data are downloaded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from pgbackup.audit import names
from pgbackup.audit.bucket import audit_bucket
from pgbackup.audit.contents import Contents
from pgbackup.audit.copies import audit_copies, audit_wal
from pgbackup.audit.files import audit_folder
from pgbackup.audit.judge import part
from pgbackup.audit.machine import audit_machine
from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.findings import merged
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site, Store
from pgbackup.store import LocalStore, S3Store

MACHINE = "this machine"
"""Whose findings belong to no repository."""


def audit(site: Site, cluster: str | None = None) -> dict[str, tuple[Finding, ...]]:
    """Audit this machine and each repository, for one cluster or for all; never raises for what it finds."""
    return {name: audit_one(site, name, cluster) for name in (MACHINE, *site.repositories)}


def audit_one(site: Site, name: str, cluster: str | None = None) -> tuple[Finding, ...]:
    """Audit one repository, or MACHINE; raises ConfigurationError for a name that is neither."""
    clusters = [cluster] if cluster else list(site.settings.clusters)
    for one in clusters:
        site.settings.cluster(one)
    if name == MACHINE:
        return tuple(audit_machine(site, clusters))
    if name not in site.repositories:
        raise ConfigurationError(f"no repository {name!r}", detail=", ".join(site.repositories))
    store = site.repositories[name]
    return merged([part(names.ANSWERS, partial(_place, site, store)), _held(site, store, clusters)])


def _place(site: Site, store: Store) -> Iterator[Finding]:
    """Judge where the bytes rest."""
    if isinstance(store, S3Store):
        yield from audit_bucket(store.bucket(), store.settings, encrypted=site.settings.encryption.enabled)
    elif isinstance(store, LocalStore):
        paths = site.settings.paths
        scratch = [paths.spool_folder, paths.received_folder, paths.recovered_folder]
        yield from audit_folder(store.root, scratch=scratch)


def _held(site: Site, store: Store, clusters: list[str]) -> tuple[Finding, ...]:
    """Judge what is there, then what should be."""
    contents, started = Contents(site, store, clusters), time.monotonic()
    found = part(names.ANSWERS, contents.read)
    if any(finding.name == names.ANSWERS for finding in found):
        return found  # what was read is not all: nothing can be said to be missing
    read = Finding(names.ANSWERS, True, round(time.monotonic() - started, 3))

    def copies() -> Iterator[Finding]:
        for cluster in clusters:
            yield from audit_copies(site, store, cluster, contents.committed, contents.began)

    def wal() -> Iterator[Finding]:
        for cluster in clusters:
            yield audit_wal(site, store, cluster)

    return (read, *found, *merged([part(names.AGREES, copies)]), *merged([part(names.WAL, wal)]))

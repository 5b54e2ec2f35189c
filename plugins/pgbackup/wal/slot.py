"""The receiver's replication slot: made once, by hand, because one that is made anew hides a gap."""

from __future__ import annotations

import logging

import psycopg

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site
from pgbackup.postgres import replication
from pgbackup.postgres.connection import connect, server_errors

log = logging.getLogger(__name__)


def create_slot(site: Site, cluster: str) -> Lsn:
    """Make the cluster's slot, which keeps WAL at once; return from where. Raises RefusedError when it exists."""
    name = site.settings.cluster(cluster).wal.slot
    with connect(site.connections(cluster)) as connection, server_errors(cluster):
        try:
            start = replication.create_slot(connection, name)
        except psycopg.errors.DuplicateObject:
            raise RefusedError(
                f"slot {name} exists already",
                hint="`pgbackup wal status` shows its state; a lost one has to be dropped first"
                f" (pg_drop_replication_slot('{name}')), and then a new base is needed",
            ) from None
    log.info("slot %s keeps WAL from %s on", name, start)
    return start

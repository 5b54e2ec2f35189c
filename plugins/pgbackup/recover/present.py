"""Bring the archive up to the present, while the server still answers: what has just happened is within reach then."""

from __future__ import annotations

import logging
import time

import psycopg

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Segment
from pgbackup.postgres import describe, replication
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.restore.archive import list_archive

log = logging.getLogger(__name__)

_PATIENCE = 60.0
_PAUSE = 0.2


def archive_present(site: Site, cluster: str) -> bool:
    """Close the segment that the server writes to and wait, up to a minute, until the local archive has it.

    False when the server does not answer, may not be asked (`pg_switch_wal`), or nobody archives what it writes.
    """
    try:
        with server_errors(cluster), connect(site.connections(cluster)) as connection:
            last = _closed(site, cluster, connection)
            system = describe.server(connection).system_identifier
    except (PgBackupError, psycopg.Error) as error:
        log.warning("the archive is as it is, %s cannot be asked to close its WAL segment: %s", cluster, error)
        return False
    until = time.monotonic() + _PATIENCE
    while last is not None and last not in list_archive(site.local, cluster, system).segments:
        if time.monotonic() > until:
            last = None
        time.sleep(_PAUSE)
    if last is None:
        log.warning("the archive of %s does not get what is written now: see `pgbackup wal status`", cluster)
    return last is not None


def _closed(site: Site, cluster: str, connection: Connection) -> Segment | None:
    """Close the segment that is written; return it, or None when no receiver receives it."""
    wal = site.settings.cluster(cluster).wal
    state = replication.slot(connection, wal.slot)
    if wal.method == "receiver" and not (state and state.active):
        return None
    row = connection.execute(
        "SELECT pg_catalog.pg_switch_wal()::text,"
        " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))"
    ).fetchone()
    end, size = row or ("0/0", 0)
    return Segment.holding(Lsn.parse(end).minus(1), describe.server(connection).timeline, size)

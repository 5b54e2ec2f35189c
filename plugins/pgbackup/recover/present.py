"""Bring the archive up to the present, while the server still answers: what has just happened is within reach then."""

from __future__ import annotations

import logging
import time

import psycopg

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Segment
from pgbackup.postgres import describe
from pgbackup.postgres.connection import connect, server_errors
from pgbackup.restore.archive import list_archive

log = logging.getLogger(__name__)

_PATIENCE = 60.0
_PAUSE = 0.2


def archive_present(site: Site, cluster: str, store: Store) -> bool:
    """Close the segment that the server writes to and wait, up to a minute, until the archive in ``store`` has it.

    False when the server does not answer, may not be asked (`pg_switch_wal`), or the archive does not get it.
    """
    try:
        with server_errors(cluster), connect(site.connections(cluster)) as connection:
            server = describe.server(connection)
            row = connection.execute(
                "SELECT pg_catalog.pg_switch_wal()::text,"
                " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))"
            ).fetchone()
    except (PgBackupError, psycopg.Error) as error:
        log.warning("the archive is as it is, %s cannot be asked to close its WAL segment: %s", cluster, error)
        return False
    end, size = row or ("0/0", 0)
    last = Segment.holding(Lsn.parse(end).minus(1), server.timeline, size)
    until = time.monotonic() + _PATIENCE
    while last not in list_archive(store, cluster, server.system_identifier).segments:
        if time.monotonic() > until:
            log.warning("the archive does not get %s: see `pgbackup wal status`", last.name)
            return False
        time.sleep(_PAUSE)
    log.info("the WAL up to %s is archived now", end)
    return True

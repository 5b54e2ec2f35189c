"""The heartbeat: a row a second while WAL is received, and what the server knows to be on this disk."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import psycopg

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.ports import Site
from pgbackup.postgres import replication
from pgbackup.postgres.connection import Connection, server_errors
from pgbackup.postgres.heartbeat import connect_to_heartbeat
from pgbackup.wal.journal import Journal

log = logging.getLogger(__name__)

_EVERY = 1.0
_BEATS_BETWEEN_PRUNINGS = 3600
_PRUNE = "DELETE FROM pgbackup.heartbeat WHERE moment < pg_catalog.clock_timestamp() - interval '14 days'"


@contextlib.contextmanager
def beating(site: Site, cluster: str, journal: Journal) -> Iterator[None]:
    """Write heartbeats in a thread of its own while the block runs."""
    heart = _Heart(site, cluster, journal)
    heart.start()
    try:
        yield
    finally:
        heart.ending.set()
        heart.join()


class _Heart(threading.Thread):
    """Beats on its own connection, and connects again whenever that is lost. Failing is no reason not to receive."""

    def __init__(self, site: Site, cluster: str, journal: Journal) -> None:
        super().__init__()
        self.ending = threading.Event()
        self._site = site
        self._cluster = cluster
        self._journal = journal
        self._complaint = ""

    def run(self) -> None:
        """Beat until the end."""
        while not self.ending.wait(_EVERY):
            try:
                parameters = self._site.connections(self._cluster)
                with server_errors(self._cluster), connect_to_heartbeat(parameters) as connection:
                    self._beat(connection)
            except PgBackupError as error:
                if error.message != self._complaint:  # once, not every second
                    log.warning("no heartbeat: %s", error)
                self._complaint = error.message

    def _beat(self, connection: Connection) -> None:
        """Beat until the end or an error; after a while somebody may have made the table elsewhere: connect again."""
        connection.execute("SET statement_timeout = '10s'")  # a wait for a synchronous standby included
        slot = self._site.settings.cluster(self._cluster).wal.slot
        for count in range(_BEATS_BETWEEN_PRUNINGS):
            # No such table; a standby.
            with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("INSERT INTO pgbackup.heartbeat DEFAULT VALUES")
                self._journal.note(heartbeat_at=self._site.clock())
                if not count:
                    connection.execute(_PRUNE)
            state = replication.slot(connection, slot)
            if state is not None and state.restart_lsn is not None:
                self._journal.note(received_lsn=str(state.restart_lsn), received_at=self._site.clock())
            self._complaint = ""
            if self.ending.wait(_EVERY):
                return

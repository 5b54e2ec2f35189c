"""DDL that arrives while a backup runs: nobody waits for ever, neither the backup nor the application."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain.errors import BusyError
from pgbackup.domain.ports import Site


def test_ddl_during_the_dump_ends_and_so_does_the_backup(source: Source, site_for: Callable[..., Site]) -> None:
    """The fingerprints are read on other connections than the one that holds the snapshot's locks."""
    source.execute("CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 400000) AS i", "streamflix")
    source.execute("CREATE TABLE small (a int)", "streamflix")
    site = site_for(source, fingerprints={"jobs": 1})
    outcome: list[object] = []

    def back_up() -> None:
        try:
            outcome.append(capture_full(site, "streamflix").id)
        except BusyError as error:
            outcome.append(error)

    backup = threading.Thread(target=back_up)
    backup.start()
    with source.connect("streamflix") as connection:
        running = "SELECT FROM pg_stat_activity WHERE datname = 'streamflix' AND query LIKE 'COPY%%'"
        while backup.is_alive() and not connection.execute(running).fetchall():
            time.sleep(0.01)
        connection.execute("ALTER TABLE small ADD COLUMN b int")  # waits for the backup's locks, no longer
    backup.join()
    assert outcome

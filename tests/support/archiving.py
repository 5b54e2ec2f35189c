"""The receiver beside a test, in a thread: WAL flows from a source into the site's archive while the block runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ports import Site
from pgbackup.wal import create_slot, receive
from tests.support.source import Source


@contextlib.contextmanager
def archiving(site: Site, source: Source, cluster: str = "streamflix") -> Iterator[None]:
    """Make the slot unless it is there, and receive; what is finished when the block ends is sealed."""
    with contextlib.suppress(RefusedError):
        create_slot(site, cluster)
    told, failed = threading.Event(), []

    def run() -> None:
        try:
            receive(site, cluster, stop=told.is_set)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        told.set()
        thread.join()
        if failed:
            raise failed[0]

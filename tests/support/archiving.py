"""The receiver beside a test, in a thread: WAL flows from a source into the site's archive while the block runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from pgbackup.domain.ports import Site
from tests.support.source import Source


@contextlib.contextmanager
def archiving(site: Site, source: Source) -> Iterator[None]:
    raise NotImplementedError
    yield

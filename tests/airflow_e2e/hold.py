"""Makes a capture stand still in the middle of pg_dump, with nothing but locks that any session may take."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psycopg

from tests.airflow_e2e.rest import eventually
from tests.support.source import Source

_WAITERS = """
SELECT a.query FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = 'library')
  AND l.relation = 'book'::regclass AND NOT l.granted AND l.mode = %s
"""


class Hold:
    """Holds captures of database ``library``.

    Whoever wants ACCESS EXCLUSIVE queues behind the engine's ACCESS SHARE, and pg_dump's ACCESS SHARE behind that:
    pg_dump and gpg live, and wait for as long as the test likes (pg_dump itself: for a minute).
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._holder = _Session(source)

    def __enter__(self) -> Self:
        self._holder.want()
        self._holder.thread.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.end()

    def let_pg_dump_start(self) -> None:
        """Let the engine pass, one wait after the other, until it has its locks and its snapshot."""
        while True:
            (query, *_) = eventually(lambda: self._waiting("AccessShareLock"), "a capture that waits for a table")
            self._pass_on()
            if query.startswith("LOCK TABLE"):
                return

    def _pass_on(self) -> None:
        """Let go of the table, but be the next in the queue behind whoever waits now."""
        following = _Session(self._source)
        following.want()
        eventually(lambda: self._waiting("AccessExclusiveLock"), "our own place in the queue")
        self._holder.end()
        self._holder = following

    def _waiting(self, mode: str) -> list[str]:
        """What those do who wait for the table in this mode."""
        with self._source.connect("library") as connection:
            return [query for (query,) in connection.execute(_WAITERS, (mode,)).fetchall()]


class _Session:
    """A session that holds the table, or wants it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._connection = source.connect("library")
        self._pid = self._connection.info.backend_pid
        self.thread = threading.Thread(target=self._lock, daemon=True)

    def want(self) -> None:
        self.thread.start()

    def end(self) -> None:
        self._source.execute(f"SELECT pg_terminate_backend({self._pid})")
        self.thread.join()
        self._connection.close()

    def _lock(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.execute("BEGIN; LOCK TABLE book IN ACCESS EXCLUSIVE MODE")

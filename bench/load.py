"""What happens to the source meanwhile: a clustered change, and WAL by the gibibyte."""

from __future__ import annotations

import psycopg

from pgbackup.domain.model import ConnectionParameters

_HOT = """
CREATE TABLE hot (id bigint PRIMARY KEY, changed_at timestamptz NOT NULL DEFAULT now(), body text NOT NULL)
WITH (fillfactor = 60);
INSERT INTO hot (id, body) SELECT i, md5(i::text) || repeat('streamflix ', 20) FROM generate_series(1, {rows}) AS i;
"""
# Recent rows are written over and over, and new ones appended: what a busy application does.
_BATCH = """
UPDATE hot SET changed_at = clock_timestamp(), body = md5(id::text || clock_timestamp()) || right(body, -32)
WHERE id BETWEEN %(first)s AND %(first)s + 9999
"""
_APPEND = """
INSERT INTO hot (id, body)
SELECT %(first)s + i, md5(random()::text) || repeat('streamflix ', 20) FROM generate_series(1, 2000) AS i
"""


class Load:
    """Writes to the source. ``rows`` is how many rows the hot table begins with."""

    def __init__(self, parameters: ConnectionParameters, *, rows: int = 200_000) -> None:
        self._connection = psycopg.connect(**parameters.keywords, autocommit=True)
        self._connection.execute(_HOT.format(rows=rows))
        self._rows = self._last = rows
        self._events = self._number('SELECT max(watch_event_id) FROM "WatchEvent"')

    def change(self, share: float) -> None:
        """Change the newest ``share`` of the largest table's rows."""
        self._connection.execute(
            'UPDATE "WatchEvent" SET watched_seconds = watched_seconds + 1 WHERE watch_event_id > %s',
            (int(self._events * (1 - share)),),
        )

    def write(self, count: int) -> None:
        """Write so many bytes of WAL."""
        start = self._number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        batch = 0
        while self._number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn") < start + count:
            self._connection.execute(_BATCH, {"first": 1 + 10_000 * batch % self._rows})
            self._connection.execute(_APPEND, {"first": self._last})
            self._last += 2000
            batch += 1
            if batch % 20 == 0:
                self._connection.execute("VACUUM hot")

    def mark(self, name: str) -> None:
        """Set a named restore point, and close the segment that holds it."""
        self._connection.execute("SELECT pg_create_restore_point(%s)", (name,))
        self.close_segment()

    def close_segment(self) -> str:
        """Close the present segment; return the name of it, which archives get now."""
        self._connection.execute("SELECT pg_logical_emit_message(true, 'bench', 'the end')")
        row = self._connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        self._connection.execute("SELECT pg_logical_emit_message(true, 'bench', 'the next')")
        return str(row[0] if row else "")

    def state(self) -> str:
        """Return what a recovery to this moment has to bring back."""
        return self.state_of(self._connection)

    @staticmethod
    def state_of(connection: psycopg.Connection) -> str:
        """Return what a server holds."""
        return str(connection.execute("SELECT count(*), max(changed_at) FROM hot").fetchone())

    def _number(self, query: str) -> int:
        row = self._connection.execute(query).fetchone()
        return int(row[0]) if row else 0

"""Long lists and sums for people to look at: thousands of backups at once, without their manifests."""

from __future__ import annotations

import functools
import json
from datetime import datetime

from psycopg.rows import tuple_row

from pgbackup.catalog.session import Sessions
from pgbackup.domain.model import Captured, CopyState, Holding, Kind, Listed, State

_KIND = {str(one): one for one in Kind}
_STATE = {str(one): one for one in State}


class Listings(Sessions):
    """The part of the catalog that pages are made of."""

    def listed(self, cluster: str) -> tuple[Listed, ...]:
        """Return every backup that is somewhere, runs or failed; see ports.Catalog."""
        with self._transaction() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                "SELECT b.id, b.kind, b.method, b.state, b.parent, coalesce(b.backup_time, b.started_at),"
                " extract(epoch FROM b.finished_at - b.started_at)::float8, b.bytes, c.copies FROM backup_log AS b"
                " LEFT JOIN (SELECT backup_id, jsonb_object_agg(repository, state)::text AS copies FROM backup_copy"
                " WHERE state <> 'expired' GROUP BY backup_id) AS c ON c.backup_id = b.id"
                " WHERE b.cluster = %s AND b.state <> 'expired' ORDER BY b.started_at DESC, b.id DESC",
                (cluster,),
            )
            states = functools.cache(_states)  # thousands of backups have a few sets of copies
            return tuple(
                Listed(one, _KIND[kind], method, _STATE[state], parent, moment, seconds, size, states(copies))
                for one, kind, method, state, parent, moment, seconds, size, copies in cursor.fetchall()
            )

    def holdings(self, cluster: str) -> tuple[Holding, ...]:
        """Return what each repository holds; see ports.Catalog."""
        with self._transaction() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                "SELECT c.repository, b.kind, count(*) AS copies,"
                " count(*) FILTER (WHERE c.state = 'verified') AS verified,"
                " count(*) FILTER (WHERE c.state = 'damaged') AS damaged,"
                " coalesce(sum(b.bytes), 0)::bigint AS bytes, max(c.verified_at) AS verified_at"
                " FROM backup_copy AS c JOIN backup_log AS b ON b.id = c.backup_id"
                " WHERE b.cluster = %s AND c.state <> 'expired' GROUP BY 1, 2 ORDER BY 1, 2",
                (cluster,),
            )
            return tuple(Holding(repository, _KIND[kind], *rest) for repository, kind, *rest in cursor.fetchall())

    def captured_weekly(self, cluster: str, *, since: datetime) -> tuple[Captured, ...]:
        """Return what was captured by kind and week; see ports.Catalog."""
        with self._transaction() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                "SELECT kind, date_trunc('week', started_at, 'UTC') AS week, sum(bytes)::bigint AS bytes"
                " FROM backup_log WHERE cluster = %s AND started_at >= %s AND bytes IS NOT NULL"
                " GROUP BY 1, 2 ORDER BY 2, 1",
                (cluster, since),
            )
            return tuple(Captured(_KIND[kind], *rest) for kind, *rest in cursor.fetchall())


def _states(copies: str | None) -> dict[str, CopyState]:
    return {name: CopyState(state) for name, state in json.loads(copies or "{}").items()}

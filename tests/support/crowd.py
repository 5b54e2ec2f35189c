"""So many backups in a catalog that whatever is slow or large with their number shows."""

from __future__ import annotations

import psycopg

from tests.support.manifests import manifest

_BACKUPS = """
INSERT INTO backup_log
    (id, cluster, kind, state, owner, backup_time, started_at, finished_at, bytes, database_bytes, manifest)
SELECT %(cluster)s || to_char(moment AT TIME ZONE 'UTC', '_YYYYMMDD_HH24MISS_')
           || (ARRAY['full', 'base', 'incr'])[1 + i %% 3],
       %(cluster)s, (ARRAY['full', 'base', 'incremental'])[1 + i %% 3],
       (ARRAY['verified', 'verified', 'verified', 'rejected', 'captured'])[1 + i %% 5], 'crowd',
       moment, moment, moment + interval '5 min', 1000000, 1000, %(manifest)s::jsonb
FROM generate_series(1, %(count)s) AS i, LATERAL (SELECT now() - i * interval '3 h') AS at (moment)
"""
_COPIES = """
INSERT INTO backup_copy SELECT id, repository, 'verified', now(), now()
FROM backup_log, unnest(ARRAY['local', 'eu']) AS repository WHERE owner = 'crowd'
"""


def crowd(connection: psycopg.Connection[tuple[object, ...]], cluster: str, count: int) -> None:
    """Record backups, three hours from one to the next, each with two copies."""
    given = {"cluster": cluster, "manifest": manifest(cluster).to_json().decode(), "count": count}
    connection.execute(_BACKUPS, given)
    connection.execute(_COPIES)
    connection.execute("ANALYZE")


def disperse(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Forget them."""
    connection.execute("DELETE FROM backup_copy USING backup_log WHERE backup_id = id AND owner = 'crowd'")
    connection.execute("DELETE FROM backup_log WHERE owner = 'crowd'")

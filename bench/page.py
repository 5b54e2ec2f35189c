"""How long the data of the Recovery page takes: python -m bench.page [backups] (10,000)."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psycopg
from tests.support.manifests import manifest
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.overview import overview, overview_json

_BACKUPS = """
INSERT INTO backup_log (id, cluster, kind, state, owner, backup_time, started_at, finished_at, bytes, database_bytes,
                        manifest)
SELECT format('streamflix_%%s_%%s', to_char(moment, 'YYYYMMDD_HH24MISS'), left(kind, 4)), 'streamflix', kind,
       (ARRAY['verified', 'verified', 'verified', 'rejected', 'captured'])[1 + i %% 5], 'bench', moment, moment,
       moment + interval '5 min', 1000000 + i, 1000, %(manifest)s
FROM generate_series(1, %(count)s) AS i, LATERAL (SELECT now() - i * interval '2 h' AS moment,
       (ARRAY['full', 'base', 'incremental'])[1 + i %% 3] AS kind) AS drawn
"""
_COPIES = """
INSERT INTO backup_copy (backup_id, repository, state, stored_at, verified_at)
SELECT id, repository, 'verified', now(), now() FROM backup_log, unnest(ARRAY['local', 'eu', 'us']) AS repository
"""


def main(count: int) -> None:
    """Fill a catalog, three copies each; print the best of five."""
    source = Source()
    try:
        source.execute("CREATE DATABASE catalog")
        dsn = f"{source.conninfo} dbname=catalog"
        with tempfile.TemporaryDirectory() as folder:
            site = make_site(Path(folder), source, dsn)
            site.catalog.backups()  # makes its schema
            with psycopg.connect(dsn) as connection:
                connection.execute(_BACKUPS, {"manifest": manifest().model_dump_json(), "count": count})
                connection.execute(_COPIES)
                connection.execute("ANALYZE")
            seconds = []
            for _ in range(5):
                started = time.perf_counter()
                text = overview_json(overview(site, "streamflix"))
                seconds.append(time.perf_counter() - started)
            print(f"{count} backups, {3 * count} copies: {min(seconds) * 1e3:.0f} ms, {len(text) / 1e6:.1f} MB of JSON")
    finally:
        source.remove()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)

"""Make the golden backups of today's format, once: python -m tests.golden.make FOLDER.

A dump, a base, a block incremental and the WAL behind them, of one small server; the key pair; what was in it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.archiving import archiving
from tests.support.keys import make_key
from tests.support.site import make_site
from tests.support.source import LIBRARY, SAMPLE, Source

from pgbackup.capture import capture_incremental, capture_night
from pgbackup.domain.model import Verdict
from pgbackup.verify import verify

ROWS = "SELECT count(*) || ' ' || md5(string_agg(b::text, ',' ORDER BY book_id)) FROM book AS b"


def make(target: Path) -> None:
    """Fill a new folder."""
    target.mkdir(parents=True)
    source, catalog = Source(), Source()
    scratch = Path(tempfile.mkdtemp(prefix="golden", dir="/tmp"))
    try:
        source.make_roles()
        source.run_script(SAMPLE / "pgbackup.sql", "postgres")
        source.execute("ALTER SYSTEM SET summarize_wal = on")
        source.execute("SELECT pg_reload_conf()")
        source.execute("CREATE DATABASE library")
        source.execute(LIBRARY, "library")
        source.execute("SELECT pg_switch_wal()")  # what made all this is none of it
        source.execute("CHECKPOINT")
        catalog.execute("CREATE DATABASE catalog")
        key = make_key(target / "keys", "golden", expires="0")
        dsn = f"host={catalog.folder} port={catalog.port} user=postgres dbname=catalog"
        site = make_site(scratch, source, dsn, key)
        with archiving(site, source):
            taken = [*capture_night(site, "streamflix")]
            source.execute("INSERT INTO book (title) SELECT 'later ' || i FROM generate_series(1, 50) AS i", "library")
            taken.append(capture_incremental(site, "streamflix"))
            source.execute("INSERT INTO book (title) VALUES ('the last')", "library")
            with source.connect("library") as connection:
                [latest] = connection.execute(ROWS).fetchone() or (None,)
            source.execute("SELECT pg_switch_wal()")
        for manifest in taken:
            assert verify(site, manifest.id, "local").verdict is Verdict.VERIFIED
        for kind in ("full", "base", "incremental", "wal"):
            shutil.copytree(site.settings.paths.backups / kind, target / "repository" / kind)
        (target / "expected.json").write_text(
            json.dumps({"latest": latest, "ids": [one.id for one in taken]}, indent=1) + "\n"
        )
    finally:
        source.remove()
        catalog.remove()
        shutil.rmtree(scratch)


if __name__ == "__main__":
    make(Path(sys.argv[1]))

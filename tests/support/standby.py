"""A hot standby of a protected server."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from pgbackup.postgres.throwaway import _isolation
from tests.support.source import Source, free_port


class Standby(Source):
    """Made by pg_basebackup; follows its primary while both run."""

    def __init__(self, primary: Source) -> None:
        self.major = primary.major
        self.bin = primary.bin
        self.folder = Path(tempfile.mkdtemp(prefix="pgstandby", dir="/tmp"))
        self.data = self.folder / "data"
        self.port = free_port()
        self.password = secrets.token_urlsafe(16)
        self._process = None
        if _isolation() == "nobody":
            os.chown(self.folder, 65534, 65534)
        conninfo = f"host={primary.folder} port={primary.port} user=postgres"
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", f"--dbname={conninfo}"]
        self._run("pg_basebackup", "--pgdata", str(self.data), *options)
        with (self.data / "postgresql.auto.conf").open("a") as file:
            # The one that pg_basebackup wrote has options which an older libpq of the system does not know.
            file.write(f"port = {self.port}\nprimary_conninfo = '{conninfo}'\n")
        self.start()

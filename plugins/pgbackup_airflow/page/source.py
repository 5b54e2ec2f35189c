"""The site that the page reads: the catalog for what is shown, the local repository for a plan."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from pgbackup.assembly import build_site, config_path, load_settings
from pgbackup.domain.ports import Site
from pgbackup.overview import Overview, overview
from pgbackup_airflow.hook import PgBackupHook

OWNER = "the Recovery page"
FRESH = 5.0
"""Seconds for which an overview is shown again: a page that many people keep open asks the catalog once."""


class Source:
    """A site as the configuration has it now, and what was read through it a moment ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: tuple[Path, int] | None = None
        self._site: Site | None = None
        self._read: dict[str, tuple[float, Overview]] = {}

    def site(self) -> Site:
        """Return the site; built again when the configuration has changed. Nothing is connected."""
        path = config_path()
        version = (path, path.stat().st_mtime_ns if path.exists() else 0)
        with self._lock:
            if self._site is None or version != self._version:
                hook = PgBackupHook(owner=OWNER, cluster=None)
                self._site = build_site(load_settings(path), hook.parameters, owner=OWNER, bucket=hook.bucket)
                self._version = version
                self._read.clear()
            return self._site

    def overview(self, cluster: str) -> Overview:
        """Return how a cluster stands, a few seconds old at most; raises as overview.overview does."""
        site = self.site()
        known = self._read.get(cluster)
        if known is None or time.monotonic() - known[0] > FRESH:
            known = (time.monotonic(), overview(site, cluster))
            self._read[cluster] = known
        return known[1]

"""Audits are kept as people read them, one report for each place."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pgbackup.domain.settings import Settings
from pgbackup.shelf import keep_report


def keep(settings: Settings, cluster: str, place: str, at: datetime, *, html: str, text: str) -> Path:
    """Keep the report of a repository, or of this machine; return its path, raises UnavailableError."""
    return keep_report(settings, cluster, at, f"quarterly_audit_{place.replace(' ', '_')}", html=html, text=text)

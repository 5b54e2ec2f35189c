"""The protocol's health checks: last backup time, database sizes, table sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pgbackup.domain.findings import Answer, some
from pgbackup.domain.model import Backup, Kind
from pgbackup.domain.ports import Site
from pgbackup.domain.review import Measures, Point
from pgbackup.domain.usual import COUNTED
from pgbackup.postgres import describe
from pgbackup.postgres.connection import connect
from pgbackup.watch.text import megabytes

_TABLES = 10
_PLOTTED = 60


def measure(site: Site, cluster: str) -> Measures:
    """Ask the server for the sizes of its databases and of their largest tables; raises what a connection raises."""
    parameters, left_out = site.connections(cluster), set(site.settings.cluster(cluster).exclude_databases)
    databases, tables = {}, {}
    with connect(parameters) as connection:
        names = [name for name in describe.databases(connection) if name not in left_out]
    for name in names:
        with connect(parameters, name) as connection:
            row = connection.execute("SELECT pg_catalog.pg_database_size(current_database())").fetchone()
            databases[name] = int(row[0]) if row else 0
            for one in describe.rows(connection, "table_sizes"):
                tables[f"{name}.{one['schema_name']}.{one['name']}"] = int(one["bytes"])
    largest = sorted(tables.items(), key=lambda item: (-item[1], item[0]))[:_TABLES]
    return Measures(site.clock(), databases, dict(largest))


def last_backup(backups: Sequence[Backup]) -> Answer:
    """SELECT MAX(backup_time) FROM backup_log."""
    newest = max((one.backup_time for one in backups if one.backup_time), default=None)
    return newest is not None, f"{newest:%Y-%m-%d %H:%M:%S} UTC" if newest else "there is none", "take one"


def grown(now: Mapping[str, int], before: Mapping[str, int] | None, at: datetime | None) -> Answer:
    """Say how large each is, and by how much it grew since the last review; never fails."""
    known = before or {}
    parts = [f"{name} {megabytes(size)}{_change(size, known.get(name))}" for name, size in now.items()]
    gone = [name for name in known if name not in now]
    since = f"; since {at:%Y-%m-%d}" if at else "; no earlier review to compare with"
    also = f"; not among them any more: {some(gone)}" if gone else ""
    return True, f"{some(parts, most=10)}{since}{also}", ""


def _change(size: int, before: int | None) -> str:
    return f" ({size / before - 1:+.0%})" if before else ""


def plots(backups: Sequence[Backup]) -> dict[str, tuple[Point, ...]]:
    """Return the last sizes of the databases and of each kind of backup, oldest first."""
    counted = [one for one in reversed(backups) if one.state in COUNTED and one.backup_time]
    found = {
        "databases": [
            Point(one.backup_time, one.database_bytes) for one in counted if one.backup_time and one.database_bytes
        ]
    }
    for kind in Kind:
        own = [one for one in counted if one.kind is kind]
        found[f"{kind} backups"] = [Point(one.backup_time, one.bytes) for one in own if one.backup_time and one.bytes]
    return {name: tuple(points[-_PLOTTED:]) for name, points in found.items() if len(points) > 1}

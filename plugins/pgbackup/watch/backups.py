"""The backups that recovery starts from: which one is the newest, is it young enough, was it tried lately."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from pgbackup.domain.drill import Scenario
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import Answer
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import ADOPTED, Manifest
from pgbackup.domain.model import Backup, Kind, State
from pgbackup.domain.ports import Site
from pgbackup.restore.fetch import describe_copy

log = logging.getLogger(__name__)

USABLE = frozenset({State.CAPTURED, State.VERIFIED})
OLDEST = timedelta(hours=26)
"""A night, and two hours to take and to prove its backups."""


def start_of_recovery(site: Site, backups: Sequence[Backup], system: str | None) -> Manifest | None:
    """Return the newest verified physical backup of a system, else the newest; ``backups`` come newest first."""
    physical = [one for one in backups if one.kind is Kind.BASE or one.method == "block"]
    for backup in sorted(physical, key=lambda one: one.state is not State.VERIFIED):
        try:
            manifest = describe_copy(site, site.local, BackupId.parse(backup.id)).manifest
        except RefusedError as error:
            log.warning("%s is no start of a recovery: %s", backup.id, error)
            continue
        if system in {None, manifest.server.system_identifier}:
            return manifest
    return None


def recent(backups: Sequence[Backup], kinds: Sequence[Kind], now: datetime, cluster: str) -> Answer:
    """Each kind of the night has a verified backup that is not older than a night and a bit."""
    details, ok = [], True
    for kind in kinds:
        moments = [one.backup_time for one in backups if one.kind is kind and one.state is State.VERIFIED]
        newest = max((moment for moment in moments if moment), default=None)
        ok = ok and newest is not None and now - newest <= OLDEST
        details.append(f"{kind}: {newest:%Y-%m-%d %H:%M} UTC" if newest else f"{kind}: none")
    return (
        ok,
        "newest verified " + ", ".join(details),
        f"look at the last runs of {cluster}_full_backup and {cluster}_verify_backup; run the first one again",
    )


def drilled(site: Site, cluster: str) -> Answer:
    """Each scenario was drilled lately, whatever came of it; a new cluster has as long for its first drill."""
    oldest, now = site.settings.cluster(cluster).drill.oldest, site.clock()
    drills = site.catalog.drills(cluster)
    late, details = False, []
    for scenario in Scenario:
        newest = next((one.started_at for one in drills if one.scenario is scenario), None)
        details.append(f"{scenario.label}: {newest:%Y-%m-%d}" if newest else f"{scenario.label}: never")
        late = late or now - (newest or _first_backup(site, cluster, now)) > oldest
    return (
        not late,
        f"{', '.join(details)}; at least every {oldest.days} days",
        f"run the DAG {cluster}_recovery_drill, or `pgbackup drill run`",
    )


def _first_backup(site: Site, cluster: str, now: datetime) -> datetime:
    own = (one.started_at for one in site.catalog.backups(cluster) if one.method != ADOPTED)
    return min(own, default=now)

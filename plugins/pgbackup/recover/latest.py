"""Prove that the newest moment can be reached: recover to it in the spool, look, and remove all of it."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

from pgbackup.domain.errors import PgBackupError, RefusedError
from pgbackup.domain.findings import LATEST, Answer, timed
from pgbackup.domain.model import Finding, Watched
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.survey import show
from pgbackup.domain.target import Latest
from pgbackup.postgres.connection import server_errors
from pgbackup.recover.cluster import Recovery
from pgbackup.recover.planning import plan
from pgbackup.recover.replay import Replayed
from pgbackup.recover.side import private_place, spool_errors

log = logging.getLogger(__name__)

_LASTS = timedelta(hours=20)
"""A proof a day, at the same time of it: the run of yesterday may have been later than today's."""


def proved_lately(site: Site, cluster: str) -> Watched | None:
    """Return what proved in the last 20 hours that the newest moment can be reached, None when that is due."""
    known = next((one for one in site.catalog.watched(cluster) if one.name == LATEST), None)
    return known if known and known.ok and site.clock() - known.seen_at < _LASTS else None


def verify_latest(site: Site, cluster: str) -> Finding:
    """Recover a cluster's newest archived moment in isolation; the finding is recorded as a watched one.

    It fails when that moment cannot be reached. How much would have been lost is said, and judged by the watch. Nothing
    is published; what a killed run left is removed. Raises BusyError while another process does the same, UnfitError or
    UnavailableError when this machine cannot judge.
    """
    finding = timed(LATEST, lambda: _tried(site, cluster), clock=time.monotonic)
    log.log(logging.INFO if finding.ok else logging.ERROR, "%s: %s", finding.name, finding.detail)
    try:
        site.catalog.saw(cluster, (finding,), owner=site.owner, now=site.clock())
    except PgBackupError as error:
        log.warning("not recorded: %s", error)
    return finding


def _tried(site: Site, cluster: str) -> Answer:
    now, begun = site.clock(), time.monotonic()
    try:
        folder = site.spool / "latest" / cluster
        with spool_errors(), private_place(folder) as place, server_errors("the recovered server"):
            planned = plan(site, cluster, Latest(), timeline=None, repository=site.local.name)
            place.take_up(planned)
            found = Recovery(site, planned, place).replayed()
    except RefusedError as error:
        detail = ": ".join(filter(None, (error.message, error.detail)))
        return False, detail, error.hint or f"take a new base at once: run {cluster}_full_backup"
    return True, _told(planned, found, now, time.monotonic() - begun), ""


def _told(planned: RecoveryPlan, found: Replayed, now: datetime, seconds: float) -> str:
    """Say what came back, how far behind ``now`` that is, and how long it took."""
    newest = max(filter(None, (found.last_commit, found.heartbeat)), default=None)
    parts = [f"{found.lsn} on timeline {planned.timeline}"]
    if found.last_commit:
        parts.append(f"last commit {show(found.last_commit.astimezone(UTC))}")
    if found.heartbeat:
        parts.append(f"newest heartbeat {show(found.heartbeat.astimezone(UTC))}")
    if newest:
        behind = timedelta(seconds=round((now - newest).total_seconds()))
        parts.append(f"{max(behind, timedelta())} before it was tried")
    parts.append(f"{seconds:.1f} s from {' + '.join((*planned.chain, *planned.bundles))}")
    if not planned.archived:
        parts.append("nothing is archived behind it: its own end is the newest moment")
    return ", ".join(parts)

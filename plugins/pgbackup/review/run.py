"""One review: every item of a list, and the health checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from pgbackup.domain import review as named
from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.model import Backup, Finding, Severity
from pgbackup.domain.ports import Site
from pgbackup.domain.review import ITEMS, Item, Measures, Period, Review
from pgbackup.postgres.connection import server_errors
from pgbackup.review import health, monthly, weekly
from pgbackup.review.keep import newest
from pgbackup.watch.judge import judged

_ADVICE = frozenset({"the rules keep what the protocol asks for", "somebody can be called", "there are three copies"})
"""What somebody may have decided otherwise: a warning, which makes nothing red."""


def review(site: Site, cluster: str, period: Period) -> Review:
    """Go through a period's list; never raises for what a check finds, but for a catalog that does not answer.

    Nothing is changed, no backup is restored: what the nights proved is looked at.
    """
    now = site.clock()
    since, backups = now - period.length, site.catalog.backups(cluster)
    checks = {Period.WEEKLY: weekly.checks, Period.MONTHLY: monthly.checks}[period]
    found: dict[str, list[Finding]] = {name: [] for name in ITEMS[period]}
    for item, name, check in checks(site, cluster, backups, since):
        finding = judged(name, check)
        found[item].append(dataclasses.replace(finding, severity=Severity.WARNING) if name in _ADVICE else finding)
    last = newest(site.settings, cluster, period)
    before = last.measures if last else None
    measures, checked = _health(site, cluster, backups, before)
    items = [Item(name, tuple(findings)) for name, findings in found.items()]
    return Review(
        cluster=cluster,
        period=period,
        since=since,
        until=now,
        items=(*items, Item(named.HEALTH, checked)),
        measures=measures,
        before=before,
        plots=health.plots(backups),
    )


def _health(
    site: Site, cluster: str, backups: Sequence[Backup], before: Measures | None
) -> tuple[Measures | None, tuple[Finding, ...]]:
    found = [judged("last backup time", partial(health.last_backup, backups))]
    try:
        with server_errors(cluster):
            measures = health.measure(site, cluster)
    except PgBackupError as error:
        detail = ": ".join(filter(None, (error.message, error.detail)))
        return None, (*found, Finding("sizes can be asked for", False, 0.0, detail, error.hint or ""))
    at: datetime | None = before.at if before else None
    sizes = partial(health.grown, measures.databases, before.databases if before else None, at)
    tables = partial(health.grown, measures.tables, before.tables if before else None, at)
    return measures, (*found, judged("database size", sizes), judged("table sizes, the largest", tables))

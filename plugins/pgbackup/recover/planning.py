"""Plan a recovery from what one repository holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError
from pgbackup.domain.ports import Site
from pgbackup.domain.rates import Rates, learned
from pgbackup.domain.recovery import RecoveryPlan, plan_recovery
from pgbackup.domain.survey import Holdings, survey
from pgbackup.domain.target import AtLsn, AtTime, Latest, Target
from pgbackup.recover.present import archive_present
from pgbackup.restore.reach import read_holdings


def plan(site: Site, cluster: str, target: Target, *, timeline: int | None, repository: str) -> RecoveryPlan:
    """Plan the recovery of a cluster from a repository's own listing, with the rates that were measured there.

    What has just happened is not archived yet: the server is asked to close its WAL segment when the target may be in
    it. Works while the catalog is down, and the server. Raises RefusedError, with what can be recovered, when the
    target cannot be reached.
    """
    holdings = _read(site, cluster, repository)
    try:
        return _planned(site, holdings, target, timeline)
    except RefusedError:
        newer = repository == site.local.name and _may_be_newer(holdings, target, site.clock())
        if not (newer and archive_present(site, cluster)):
            raise
        return _planned(site, _read(site, cluster, repository), target, timeline)


def plan_archived(site: Site, cluster: str, target: Target, *, timeline: int | None, repository: str) -> RecoveryPlan:
    """Plan as plan() does, from what is archived already: no server is asked for anything."""
    return _planned(site, _read(site, cluster, repository), target, timeline)


def _read(site: Site, cluster: str, repository: str) -> Holdings:
    if repository not in site.repositories:
        raise ConfigurationError(f"no repository {repository!r}", detail=", ".join(site.repositories))
    return read_holdings(site, site.repositories[repository], cluster)


def _planned(site: Site, holdings: Holdings, target: Target, timeline: int | None) -> RecoveryPlan:
    try:
        rates = learned(site.catalog.measurements(holdings.cluster, holdings.repository))
        note = str(rates)
    except PgBackupError as error:
        rates, note = Rates(), f"{error.message}: predicted from usual rates"
    planned = plan_recovery(holdings, target, timeline, rates)
    return replace(planned, warnings=(*planned.warnings, note))


def _may_be_newer(holdings: Holdings, target: Target, now: datetime) -> bool:
    """Tell whether a target may lie between the archive's end and now."""
    windows = survey(holdings, None).windows.values() if holdings.links else ()
    match target:
        case AtTime(moment):
            return max((window.latest for window in windows), default=now) < moment <= now
        case AtLsn(lsn):
            return any(window.end < lsn for window in windows)
        case Latest():
            return False
        case _:
            return bool(windows)

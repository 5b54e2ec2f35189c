"""Plan a recovery from what one repository holds."""

from __future__ import annotations

from dataclasses import replace

from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.ports import Site
from pgbackup.domain.rates import Rates, learned
from pgbackup.domain.recovery import RecoveryPlan, plan_recovery
from pgbackup.domain.target import Target
from pgbackup.restore.reach import read_holdings


def plan(site: Site, cluster: str, target: Target, *, timeline: int | None, repository: str) -> RecoveryPlan:
    """Plan the recovery of a cluster from a repository's own listing, with the rates that were measured there.

    Works while the catalog is down. Raises RefusedError, with what can be recovered, when the target cannot be reached.
    """
    if repository not in site.repositories:
        raise ConfigurationError(f"no repository {repository!r}", detail=", ".join(site.repositories))
    holdings = read_holdings(site, site.repositories[repository], cluster)
    try:
        rates = learned(site.catalog.measurements(cluster, repository))
        note = str(rates)
    except PgBackupError as error:
        rates, note = Rates(), f"{error.message}: predicted from usual rates"
    planned = plan_recovery(holdings, target, timeline, rates)
    return replace(planned, warnings=(*planned.warnings, note))

"""Plan a recovery from what one repository holds."""

from __future__ import annotations

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan, plan_recovery
from pgbackup.domain.target import Target
from pgbackup.restore.reach import read_holdings


def plan(site: Site, cluster: str, target: Target, *, timeline: int | None, repository: str) -> RecoveryPlan:
    """Plan the recovery of a cluster from a repository's own listing; works while the catalog is down.

    Raises RefusedError, with what can be recovered, when the target cannot be reached.
    """
    if repository not in site.repositories:
        raise ConfigurationError(f"no repository {repository!r}", detail=", ".join(site.repositories))
    return plan_recovery(read_holdings(site, site.repositories[repository], cluster), target, timeline)

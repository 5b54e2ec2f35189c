"""Plan a recovery from what the repositories hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError
from pgbackup.domain.model import Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.rates import Rates, learned
from pgbackup.domain.recovery import RecoveryPlan, plan_recovery
from pgbackup.domain.survey import Holdings, survey
from pgbackup.domain.target import AtLsn, AtTime, Latest, Target
from pgbackup.recover.present import archive_present
from pgbackup.recover.sources import best
from pgbackup.restore.reach import read_holdings


@dataclass(frozen=True)
class _Candidate:
    """A plan, how far its repository reaches, and whether its chain was proved."""

    plan: RecoveryPlan
    reach: datetime
    proved: bool


def plan(site: Site, cluster: str, target: Target, *, timeline: int | None, repository: str | None) -> RecoveryPlan:
    """Plan the recovery of a cluster from a repository's own listing, with the rates that were measured there.

    Without a ``repository`` it is the local one, or where that does not reach the target the best of the others: with
    proved copies, then the quickest. To the latest it is the one that reaches farthest.

    What has just happened is not archived yet: the server is asked to close its WAL segment when the target may be in
    it. Works while the catalog is down, and the server. Raises RefusedError, with what can be recovered, when the
    target cannot be reached.
    """

    def rank(one: _Candidate) -> tuple[float, bool, bool, float]:
        farther = one.reach.timestamp() if isinstance(target, Latest) else 0.0
        return farther, one.plan.repository == site.local.name, one.proved, -one.plan.seconds

    found, refused = best(
        site,
        repository,
        lambda store: _candidate(site, cluster, target, timeline, store),
        rank,
        wanted=f"reaches {target}",
        all_at_once=isinstance(target, Latest),
    )
    if repository is not None:
        return found.plan
    others = tuple(name for name in site.repositories if name != found.plan.repository)
    passed = (f"{name} cannot be used: {error.message}" for name, error in refused.items())
    return replace(found.plan, others=others, warnings=(*found.plan.warnings, *passed))


def plan_archived(site: Site, cluster: str, target: Target, *, timeline: int | None, repository: str) -> RecoveryPlan:
    """Plan as plan() does, from what is archived already: no server is asked for anything."""
    if repository not in site.repositories:
        raise ConfigurationError(f"no repository {repository!r}", detail=", ".join(site.repositories))
    return _candidate(site, cluster, target, timeline, site.repositories[repository], ask=False).plan


def _candidate(
    site: Site, cluster: str, target: Target, timeline: int | None, store: Store, *, ask: bool = True
) -> _Candidate:
    holdings = read_holdings(site, store, cluster)
    rates, note = _rates(site, cluster, store.name)
    try:
        planned = plan_recovery(holdings, target, timeline, rates)
    except RefusedError:
        newer = ask and store.name == site.local.name and _may_be_newer(holdings, target, site.clock())
        if not (newer and archive_present(site, cluster)):
            raise
        holdings = read_holdings(site, store, cluster)
        planned = plan_recovery(holdings, target, timeline, rates)
    proved = {link.id for link in holdings.links if link.verdict is Verdict.VERIFIED}
    reach = max(window.latest for window in survey(holdings, timeline).windows.values())
    return _Candidate(replace(planned, warnings=(*planned.warnings, note)), reach, proved.issuperset(planned.chain))


def _rates(site: Site, cluster: str, repository: str) -> tuple[Rates, str]:
    """Return how fast it went before, and how that is known."""
    try:
        rates = learned(site.catalog.measurements(cluster, repository))
    except PgBackupError as error:
        return Rates(), f"{error.message}: predicted from usual rates"
    return rates, str(rates)


def fetch_rate(site: Site, cluster: str, repository: str) -> float:
    """Return how fast backups come from a repository, in bytes a second, as far as it was measured."""
    return _rates(site, cluster, repository)[0].fetch


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

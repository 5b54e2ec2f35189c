"""Read what the catalog knows of a cluster. No repository and no server is asked."""

from __future__ import annotations

from datetime import timedelta

from pgbackup.domain.ports import Site
from pgbackup.overview.document import Overview, compose

_GROWTH = timedelta(weeks=26)


def overview(site: Site, cluster: str) -> Overview:
    """Return how a cluster stands; raises ConfigurationError for an unknown one, UnavailableError: no catalog."""
    site.settings.cluster(cluster)
    catalog, now = site.catalog, site.clock()
    return compose(
        cluster,
        now=now,
        objectives=site.settings.objectives,
        repositories=tuple(site.repositories),
        backups=catalog.listed(cluster),
        watched=catalog.watched(cluster),
        prospect=catalog.prospect(cluster),
        holdings=catalog.holdings(cluster),
        captured=catalog.captured_weekly(cluster, since=now - _GROWTH),
        wal_copies=catalog.wal_copies(cluster),
        drills=catalog.drills(cluster),
        contacts=site.settings.contacts,
    )

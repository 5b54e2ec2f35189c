"""What each step of a restore takes: predictions are made from it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.model import Measurement
from pgbackup.domain.ports import Site
from pgbackup.domain.rates import Rated

log = logging.getLogger(__name__)

_LEAST = 0.001


@contextlib.contextmanager
def measured(site: Site, cluster: str, repository: str, step: Rated, size: Callable[[], int]) -> Iterator[None]:
    """Time a step that ends well; ``size`` is asked afterwards for its bytes."""
    begun = time.monotonic()
    yield
    seconds = time.monotonic() - begun
    record(site, cluster, repository, step, size(), seconds)


def record(site: Site, cluster: str, repository: str, step: Rated, count: int, seconds: float) -> None:
    """Keep a measurement, unless nothing was done; a catalog that does not answer stops no recovery."""
    if not count:
        return
    try:
        site.catalog.measured(cluster, repository, Measurement(step, count, max(seconds, _LEAST), site.clock()))
    except PgBackupError as error:
        log.warning("the rate of %s is not recorded: %s", step, error.message)

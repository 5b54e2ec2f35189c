"""How a check becomes a finding: what cannot be looked at does not hold, and hides no other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.findings import Answer, timed
from pgbackup.domain.model import Finding
from pgbackup.postgres.connection import server_errors

log = logging.getLogger(__name__)


def judged(name: str, check: Callable[[], Answer]) -> Finding:
    """Run a check; what it raises is its answer."""

    def answer() -> Answer:
        try:
            with server_errors("the server"):
                return check()
        except PgBackupError as error:
            return False, ": ".join(filter(None, (error.message, error.detail))), error.hint or ""

    finding = timed(name, answer, clock=time.monotonic)
    if not finding.ok:
        log.info("%s: FAILED %s", finding.name, finding.detail)
    return finding

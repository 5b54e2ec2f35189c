"""Reviews are kept: the report as people read it, and the numbers that the next one is compared with."""

from __future__ import annotations

import logging
from pathlib import Path

from pgbackup.domain.review import Period, Review, review_document, review_of
from pgbackup.domain.settings import Settings
from pgbackup.shelf import keep_report, shelf_of

log = logging.getLogger(__name__)


def keep(settings: Settings, review: Review, *, html: str, text: str) -> Path:
    """Keep a review's report and its numbers; return the report's path, raises UnavailableError."""
    numbers = review_document(review)
    procedure = _procedure(review.period)
    return keep_report(settings, review.cluster, review.until, procedure, html=html, text=text, numbers=numbers)


def newest(settings: Settings, cluster: str, period: Period) -> Review | None:
    """Return the last review of a period; None where there is none that can be read."""
    for path in sorted(shelf_of(settings, cluster).glob(f"*-{_procedure(period)}.json"), reverse=True):
        try:
            return review_of(path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("%s is not compared with: %s", path, error)
    return None


def _procedure(period: Period) -> str:
    return f"{period}_review"

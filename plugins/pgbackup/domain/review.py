"""Reviews: the protocol's weekly and monthly maintenance lists, and the health checks, as findings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from pydantic import TypeAdapter

from pgbackup.domain.model import Finding


class Period(StrEnum):
    """Which list."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"

    @property
    def length(self) -> timedelta:
        """How far back it looks."""
        return timedelta(days=7 if self is Period.WEEKLY else 31)


COMPLETION = "Verify backup completion"
SIZES = "Check backup file sizes"
LOGS = "Review backup logs"
RESTORATION = "Test backup restoration"
RETENTION = "Review backup retention policy"
ARCHIVE = "Archive old backups"
PROCEDURES = "Update recovery procedures"
DISASTER = "Review disaster recovery plan"
HEALTH = "Health checks"

ITEMS = MappingProxyType(
    {
        Period.WEEKLY: (COMPLETION, SIZES, LOGS, RESTORATION),
        Period.MONTHLY: (RETENTION, ARCHIVE, PROCEDURES, DISASTER),
    }
)
"""The protocol's maintenance tasks, by name."""


@dataclass(frozen=True)
class Item:
    """One maintenance task: what was looked at, and what was found."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing has to be mended."""
        return not any(finding.fails for finding in self.findings)


@dataclass(frozen=True)
class Measures:
    """Bytes at one moment: of the databases, and of the largest tables (``database.schema.table``)."""

    at: datetime
    databases: Mapping[str, int]
    tables: Mapping[str, int]


@dataclass(frozen=True)
class Point:
    """A size at a moment, for a plot."""

    at: datetime
    bytes: int


@dataclass(frozen=True)
class Review:
    """One look at a period. ``before`` is what the review before measured; ``plots`` are sizes over time, by name."""

    cluster: str
    period: Period
    since: datetime
    until: datetime
    items: tuple[Item, ...]
    measures: Measures | None
    before: Measures | None
    plots: Mapping[str, tuple[Point, ...]]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What has to be mended."""
        return tuple(finding for item in self.items for finding in item.findings if finding.fails)


_reviews = TypeAdapter(Review)


def review_document(review: Review) -> bytes:
    """Return a review as JSON."""
    return _reviews.dump_json(review, indent=1) + b"\n"


def review_of(document: bytes) -> Review:
    """Read what review_document wrote; raises ValueError for anything else."""
    return _reviews.validate_json(document)

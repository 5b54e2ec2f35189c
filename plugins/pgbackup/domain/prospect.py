"""What a recovery has to expect from a cluster's local repository, as somebody last looked at it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Reachable:
    """Every moment from ``earliest`` to ``latest`` can be recovered on the way to a timeline."""

    timeline: int
    earliest: datetime
    latest: datetime


@dataclass(frozen=True)
class Covered:
    """Archived WAL of one timeline without a gap; ``start`` and ``end`` are its positions."""

    timeline: int
    earliest: datetime
    latest: datetime
    start: str
    end: str


@dataclass(frozen=True)
class Missing:
    """WAL that is nowhere: ``after`` and ``before`` are the nearest moments that are known beside it."""

    timeline: int
    after: datetime | None
    before: datetime | None
    start: str
    end: str


@dataclass(frozen=True)
class Keeping:
    """A hold that stands on a backup (``expires_at`` None: until it is released)."""

    backup_id: str
    owner: str
    reason: str
    expires_at: datetime | None


@dataclass(frozen=True)
class Prospect:
    """What can be reached, the archived WAL and its gaps, the holds.

    ``predicted_seconds`` is how long a recovery to the latest moment takes; None, with the ``refusal``, when nothing
    can be recovered. ``segment_bytes`` is the size of the archived WAL before compression.
    """

    cluster: str
    seen_at: datetime
    windows: tuple[Reachable, ...]
    coverage: tuple[Covered, ...]
    gaps: tuple[Missing, ...]
    holds: tuple[Keeping, ...]
    segment_bytes: int
    predicted_seconds: float | None
    refusal: str


_prospects = TypeAdapter(Prospect)


def prospect_document(prospect: Prospect) -> dict[str, Any]:
    """Return a prospect as JSON has it."""
    document: dict[str, Any] = _prospects.dump_python(prospect, mode="json")
    return document


def prospect_of(document: Mapping[str, Any]) -> Prospect:
    """Read what prospect_document wrote."""
    return _prospects.validate_python(document)

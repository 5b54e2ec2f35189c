"""Recovery drills: what one measured, the protocol's checklist, the moment that is recovered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pgbackup.domain import findings as named
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Finding


class Scenario(StrEnum):
    """The protocol's quarterly recovery tests."""

    FULL = "full"
    POINT_IN_TIME = "point_in_time"
    TABLE = "table"

    @property
    def label(self) -> str:
        """What people call it."""
        return self.value.replace("_", " ")


@dataclass(frozen=True)
class DrillStep:
    """One step: how long it took, and how long that was predicted to take."""

    name: str
    seconds: float
    predicted: float


@dataclass(frozen=True)
class Drill:
    """One scenario that was tried. ``findings`` are the checklist; ``rpo_seconds`` is None where it is not measured."""

    cluster: str
    scenario: Scenario
    subject: str
    started_at: datetime
    finished_at: datetime
    rpo_seconds: float | None
    steps: tuple[DrillStep, ...]
    findings: tuple[Finding, ...]
    owner: str

    @property
    def ok(self) -> bool:
        """Every item of the checklist holds."""
        return all(finding.ok for finding in self.findings)

    @property
    def rto_seconds(self) -> float:
        """What the recovery took, its checks included; of one that failed, as far as it came."""
        return sum(step.seconds for step in self.steps)

    @property
    def predicted_seconds(self) -> float:
        """What was predicted for the same steps."""
        return sum(step.predicted for step in self.steps)


_drills = TypeAdapter(Drill)


def drill_document(drill: Drill) -> dict[str, Any]:
    """Return a drill as JSON has it."""
    document: dict[str, Any] = _drills.dump_python(drill, mode="json")
    return document


def drill_of(document: Mapping[str, Any]) -> Drill:
    """Read what drill_document wrote."""
    return _drills.validate_python(document)


DRILLS = "drills/"
"""Where a repository keeps the drills: small write-once objects, which a rebuilt catalog reads back."""


def seal_drill(drill: Drill) -> tuple[str, bytes]:
    """Return the object's key in a repository, and its text; the key holds the text's digest."""
    text = _drills.dump_json(drill, indent=1) + b"\n"
    digest = sha256(text).hexdigest()[:16]
    return f"{DRILLS}{drill.cluster}/{drill.started_at:%Y%m%d_%H%M%S}-{drill.scenario}-{digest}.json", text


def unseal_drill(key: str, text: bytes) -> Drill:
    """Read a drill back; raises RefusedError when it is not what its key says."""
    if sha256(text).hexdigest()[:16] not in key:
        raise RefusedError(f"{key} is damaged", hint="that drill does not count")
    try:
        return _drills.validate_json(text)
    except ValidationError:
        raise RefusedError(f"{key} is not a drill that this version reads") from None


# --------------------------------------------------------------------------------------------------- the checklist

REACHED = "recovery ends at the chosen moment"
HEARTBEATS = "heartbeats around the chosen moment"
RTO = "recovery time is within the objective"
RPO = "possible loss is within the objective"

ACCESSIBLE = "Backup file accessible"
COMPLETES = "Restore completes successfully"
ALL_TABLES = "All tables restored"
REFERENCES = "Referential integrity maintained"
CONNECTS = "Application connects successfully"
VALID = "Data validation passes"
PERFORMS = "Performance acceptable"

CHECKLIST: dict[str, frozenset[str]] = {
    ACCESSIBLE: frozenset({named.BYTES, named.DECRYPT}),
    COMPLETES: frozenset({named.MANIFEST_FILES, named.DECODE, named.RESTORE, named.RECOVERY, REACHED}),
    ALL_TABLES: frozenset({named.TABLES}),
    REFERENCES: frozenset({named.FOREIGN_KEYS}),
    CONNECTS: frozenset({named.APPLICATION}),
    VALID: frozenset(
        {
            *(named.CONTENT, named.LARGE_OBJECTS, named.OBJECTS, named.INDEXES, named.SEQUENCES, named.EXTENSIONS),
            *(named.ROLES, named.MATERIALIZED_VIEWS, named.CHECKSUMS, named.PAGES, named.COLLATIONS, HEARTBEATS),
        }
    ),
    PERFORMS: frozenset({named.QUERIES, RTO, RPO}),
}
"""The protocol's seven items, each with the findings that it stands on."""

_UNASKED = "nothing is configured that asks for it"
_CONFIGURE = {CONNECTS: "name the application's role: verify_backup.application_role"}


def checklist(found: Iterable[Finding], stopped: tuple[str, str] | None = None) -> tuple[Finding, ...]:
    """Answer the seven items from findings; an item that nothing speaks for was not judged, and does not hold.

    ``stopped`` says what ended the drill early, if not a finding, and what to do about it.
    """
    known = tuple(found)
    failed = next((one for one in known if not one.ok), None)
    reason, hint = stopped or ((f"{failed.name!r} failed before", failed.hint) if failed else (_UNASKED, ""))
    items = []
    for item, names in CHECKLIST.items():
        parts = [one for one in known if one.name in names]
        if item == PERFORMS and all(one.ok and one.name != RTO for one in parts):
            parts = []  # what is not restored has no performance, whatever could be lost
        if parts:
            detail = "; ".join(f"{one.name}: {one.detail}" if one.detail else one.name for one in _worst_first(parts))
            advice = next((one.hint for one in parts if not one.ok), "")
            seconds = round(sum(one.seconds for one in parts), 3)
            items.append(Finding(item, all(one.ok for one in parts), seconds, detail, advice))
        else:
            items.append(Finding(item, False, 0.0, f"not judged: {reason}", hint or _CONFIGURE.get(item, "")))
    return tuple(items)


def _worst_first(parts: Iterable[Finding]) -> list[Finding]:
    """Put what failed in front, and leave out the rest beside it."""
    ordered = sorted(parts, key=lambda one: one.ok)
    return [one for one in ordered if one.ok == ordered[0].ok]


# ------------------------------------------------------------------------------------------------------ the moment

_TICK = timedelta(microseconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Moment:
    """Two heartbeats with none in between: the first has to come back, the second must not."""

    before: datetime
    after: datetime

    @property
    def target(self) -> datetime:
        """The last moment before the second one: its commit is stamped later, the first one's earlier."""
        return self.after - _TICK


def aim(earliest: datetime, latest: datetime) -> datetime:
    """Return the moment to recover: half a day before the end of what can be reached, or its middle when shorter."""
    return latest - min(latest - earliest, _DAY) / 2


def choose_moment(heartbeats: Iterable[datetime], earliest: datetime, latest: datetime) -> Moment:
    """Return the neighbouring heartbeats in the reachable window that are nearest to the aim.

    Raises RefusedError when there are no two.
    """
    inside = sorted({one for one in heartbeats if earliest <= one <= latest})
    wanted = aim(earliest, latest)
    pairs = [Moment(before, after) for before, after in pairwise(inside)]
    if not pairs:
        raise RefusedError(
            "no two heartbeats lie in the window that can be reached",
            detail=f"from {earliest:%Y-%m-%d %H:%M:%S} to {latest:%Y-%m-%d %H:%M:%S} UTC: {len(inside)}",
            hint="is the receiver running (`pgbackup wal status`), and pgbackup.heartbeat there?",
        )
    return min(pairs, key=lambda pair: abs(pair.target - wanted))

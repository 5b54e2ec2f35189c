"""A disaster recovery as it went: the protocol's five phases, the journal's events, and what they add up to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pgbackup.domain.model import Finding


class Doing(StrEnum):
    """The protocol's steps, by the phase that each belongs to, in order."""

    ASSESS = "identify scope of data loss"
    PLAN = "determine recovery point"
    AVAILABILITY = "verify backup availability"
    PROVISION = "provision recovery environment"
    PREPARE = "prepare backup files"
    NOTIFY = "notify stakeholders"
    RESTORE = "restore database"
    INTEGRITY = "verify data integrity"
    CONNECTIVITY = "test application connectivity"
    FUNCTIONS = "functional testing"
    DATA = "data validation"
    PERFORMANCE = "performance testing"
    SWITCH = "switch to recovered system"
    MONITOR = "monitor for issues"
    DOCUMENT = "document recovery"


@dataclass(frozen=True)
class Phase:
    """A phase, the time that the protocol allows it, and its steps."""

    name: str
    allowed: timedelta
    steps: tuple[Doing, ...]


_STEPS = tuple(Doing)
PHASES = tuple(
    Phase(name, timedelta(minutes=minutes), _STEPS[3 * number : 3 * number + 3])
    for number, (name, minutes) in enumerate(
        (("assessment", 15), ("preparation", 30), ("recovery", 120), ("validation", 60), ("cutover", 15))
    )
)


class What(StrEnum):
    """What an event of the journal tells."""

    DECLARED = "declared"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    APPROVED = "approved"
    REJECTED = "rejected"


class Fact(StrEnum):
    """What steps measure, for those after them and for the report; moments are ISO 8601, durations seconds."""

    HAPPENED_AT = "happened at"
    TARGET = "target"
    REPOSITORY = "repository"
    NEWEST_KNOWN = "newest commit known"
    PREDICTED = "predicted seconds"
    MEASURED = "measured seconds"
    FOLDER = "folder"
    RECOVERED_TO = "newest recovered"
    PREPARED = "prepared transactions"
    BY_HAND = "to be done by hand"


@dataclass(frozen=True)
class Event:
    """One line of the journal; ``step`` is None for what belongs to the whole recovery."""

    at: datetime
    what: What
    step: Doing | None = None
    detail: str = ""
    findings: tuple[Finding, ...] = ()
    facts: Mapping[Fact, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """It did not fail, and everything that it found holds."""
        return self.what not in {What.FAILED, What.REJECTED} and all(finding.ok for finding in self.findings)

    @property
    def is_decision(self) -> bool:
        """People said it."""
        return self.what in {What.APPROVED, What.REJECTED}


@dataclass(frozen=True)
class Timing:
    """How long a phase took; ``due`` counts from when the incident was declared, over all phases before it."""

    phase: Phase
    begun: datetime | None
    ended: datetime | None
    due: datetime

    @property
    def took(self) -> timedelta | None:
        """From its first step's begin to its last one's end; None while it is not ended."""
        return self.ended - self.begun if self.begun and self.ended else None

    def is_late(self, now: datetime) -> bool:
        """It ended, or goes on, after its due time."""
        return (self.ended or now) > self.due


@dataclass(frozen=True)
class Incident:
    """What the journal holds; ``unreadable`` counts its lines that nobody can read (a kill leaves half a line)."""

    name: str
    events: tuple[Event, ...]
    unreadable: int = 0

    @property
    def declared_at(self) -> datetime:
        """When somebody asked for the recovery."""
        return self.events[0].at

    @property
    def since(self) -> datetime:
        """From when on the objectives count: when it happened, where that was said, else when it was declared."""
        return self.moment(Fact.HAPPENED_AT) or self.declared_at

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the last try of each step found."""
        return tuple(finding for event in self.last().values() for finding in event.findings)

    @property
    def decisions(self) -> tuple[Event, ...]:
        """What people decided."""
        return tuple(event for event in self.events if event.is_decision)

    @property
    def rejected(self) -> Event | None:
        """The rejection that ended it; None when nobody rejected what came last."""
        return self.events[-1] if self.events[-1].what is What.REJECTED else None

    @property
    def failed(self) -> tuple[Doing, ...]:
        """Steps whose last try failed, or was killed."""
        return tuple(step for step, event in self.last().items() if event.what is not What.DONE)

    @property
    def restored_at(self) -> datetime | None:
        """When service was seen to be restored; None until then."""
        monitored = self.last().get(Doing.MONITOR)
        return monitored.at if monitored and monitored.what is What.DONE else None

    @property
    def rto(self) -> timedelta | None:
        """The measured recovery time; None until service is restored."""
        return self.restored_at - self.since if self.restored_at else None

    @property
    def rpo(self) -> timedelta | None:
        """The measured loss, from the newest recovered moment on; a limit of it where nobody said when it happened."""
        recovered = self.moment(Fact.RECOVERED_TO)
        return max(self.since - recovered, timedelta()) if recovered else None

    def last(self) -> Mapping[Doing, Event]:
        """Return the newest event of each step, in the order of the protocol."""
        newest = {event.step: event for event in self.events if event.step and not event.is_decision}
        return {step: newest[step] for step in Doing if step in newest}

    def found(self, step: Doing) -> tuple[Finding, ...]:
        """Return what the last try of a step that came to its end found."""
        ended = (event for event in reversed(self.events) if event.step is step and event.what is What.DONE)
        return next((event.findings for event in ended), ())

    def fact(self, name: Fact) -> str | None:
        """Return what was measured last under a name."""
        return next((event.facts[name] for event in reversed(self.events) if name in event.facts), None)

    def moment(self, name: Fact) -> datetime | None:
        """Return a measured moment."""
        text = self.fact(name)
        return datetime.fromisoformat(text) if text else None

    def seconds(self, name: Fact) -> float | None:
        """Return a measured duration."""
        text = self.fact(name)
        return float(text) if text else None

    def timings(self) -> tuple[Timing, ...]:
        """Measure the phases; one is ended when the last try of each of its steps succeeded."""
        last, due = self.last(), self.declared_at
        found: list[Timing] = []
        for phase in PHASES:
            due += phase.allowed
            begun = min((event.at for event in self.events if event.step in phase.steps), default=None)
            ends = [last[step].at for step in phase.steps if step in last and last[step].what is What.DONE]
            ended = max(ends) if len(ends) == len(phase.steps) else None
            found.append(Timing(phase, begun, ended, due))
        return tuple(found)


def allowed_until(phase: Phase) -> timedelta:
    """Return the time that the protocol allows from the beginning to a phase's end."""
    return sum((one.allowed for one in PHASES[: PHASES.index(phase) + 1]), timedelta())

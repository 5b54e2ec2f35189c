"""What people see of a cluster, as one document. Pure: made from what the catalog knows, whatever its age."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from pgbackup.domain.drill import Drill
from pgbackup.domain.model import SILENT, Captured, Holding, Kind, Listed, State, WalCopy, Watched
from pgbackup.domain.prospect import Prospect
from pgbackup.domain.settings import Contact, Objectives

_AHEAD = timedelta(minutes=1)
"""Commits so far in the future tell of clocks that differ: then nobody knows what would be lost."""
_DRILLS = 40


class Level(StrEnum):
    """How it stands; the order is that of the worst first."""

    BAD = "bad"
    UNKNOWN = "unknown"
    GOOD = "good"


@dataclass(frozen=True)
class Problem:
    """Something that does not hold, and what to do about it."""

    name: str
    detail: str
    hint: str
    since: datetime | None


@dataclass(frozen=True)
class Repository:
    """One repository; all WAL sealed up to ``wal_until`` is there: None where none was copied, or none must be."""

    name: str
    holdings: tuple[Holding, ...]
    wal_until: datetime | None
    wal_error: str


@dataclass(frozen=True)
class Drilled:
    """A recovery drill and what it measured, in seconds."""

    scenario: str
    subject: str
    started_at: datetime
    ok: bool
    rto_seconds: float
    rpo_seconds: float | None
    predicted_seconds: float


@dataclass(frozen=True)
class Summary:
    """One cluster in a line; seconds everywhere. ``loss_seconds`` is the age of the newest moment that can be reached.

    ``watched_at`` is when somebody last looked at it.
    """

    cluster: str
    at: datetime
    level: Level
    problems: tuple[Problem, ...]
    watched_at: datetime | None
    earliest: datetime | None
    latest: datetime | None
    loss_seconds: float | None
    rpo_seconds: float
    predicted_seconds: float | None
    rto_seconds: float
    last_verified: datetime | None


@dataclass(frozen=True)
class Overview:
    """All of it; moments are UTC."""

    summary: Summary
    watched: tuple[Watched, ...]
    backups: tuple[Listed, ...]
    repositories: tuple[Repository, ...]
    captured: tuple[Captured, ...]
    prospect: Prospect | None
    drills: tuple[Drilled, ...]
    contacts: tuple[Contact, ...]


_overviews = TypeAdapter(Overview)
_summaries = TypeAdapter(Summary)


def overview_json(document: Overview) -> bytes:
    """Return it as JSON."""
    return _overviews.dump_json(document)


def overview_schema() -> dict[str, Any]:
    """Return the JSON schema of what overview_json writes."""
    return _overviews.json_schema(mode="serialization")


def summary_of(document: Overview) -> dict[str, Any]:
    """Return the line about a cluster as JSON has it."""
    line: dict[str, Any] = _summaries.dump_python(document.summary, mode="json")
    return line


def compose(
    cluster: str,
    *,
    now: datetime,
    objectives: Objectives,
    repositories: Sequence[str],
    backups: Sequence[Listed],
    watched: Sequence[Watched],
    prospect: Prospect | None,
    holdings: Sequence[Holding],
    captured: Sequence[Captured],
    wal_copies: Sequence[WalCopy],
    drills: Sequence[Drill],
    contacts: tuple[Contact, ...],
) -> Overview:
    """Put it together."""
    return Overview(
        summary=_summary(cluster, now, objectives, backups, watched, prospect),
        watched=tuple(watched),
        backups=tuple(backups),
        repositories=tuple(_repository(name, holdings, wal_copies) for name in repositories),
        captured=tuple(captured),
        prospect=prospect,
        drills=tuple(map(_drilled, drills[:_DRILLS])),
        contacts=contacts,
    )


def _summary(
    cluster: str,
    now: datetime,
    objectives: Objectives,
    backups: Sequence[Listed],
    watched: Sequence[Watched],
    prospect: Prospect | None,
) -> Summary:
    windows = prospect.windows if prospect else ()
    newest = max(windows, key=lambda one: (one.timeline, one.latest), default=None)
    watched_at = max((one.seen_at for one in watched), default=None)
    bare = Summary(
        cluster=cluster,
        at=now,
        level=Level.UNKNOWN,
        problems=(),
        watched_at=watched_at,
        earliest=newest.earliest if newest else None,
        latest=newest.latest if newest else None,
        loss_seconds=max((now - newest.latest).total_seconds(), 0.0) if newest else None,
        rpo_seconds=objectives.rpo.total_seconds(),
        predicted_seconds=prospect.predicted_seconds if prospect else None,
        rto_seconds=objectives.rto.total_seconds(),
        last_verified=max((one.moment for one in backups if one.state is State.VERIFIED), default=None),
    )
    failed = tuple(Problem(one.name, one.detail, one.hint, one.since) for one in watched if not one.ok)
    broken = prospect is not None and not windows and any(one.kind is Kind.BASE for one in backups)
    problems = (*failed, *_problems(bare, prospect.refusal if prospect and broken else ""))
    known = watched_at is not None and prospect is not None
    return replace(bare, problems=problems, level=Level.BAD if problems else Level.GOOD if known else Level.UNKNOWN)


def _problems(seen: Summary, refusal: str) -> Iterator[Problem]:
    """Yield what is wrong and no finding of the watch can say: it may be old, or missing."""
    cluster = seen.cluster
    if seen.watched_at is not None and seen.at - seen.watched_at > SILENT:
        hint = f"is the DAG {cluster}_wal_watch paused, the scheduler down, or its queue without a worker?"
        yield Problem("the watch is silent", "what is shown may have changed since", hint, seen.watched_at)
    if seen.last_verified is None:
        hint = f"run {cluster}_full_backup; its restore test follows by itself"
        yield Problem("no backup is verified", "", hint, None)
    if refusal:
        yield Problem("nothing can be recovered to a moment", refusal, f"run {cluster}_full_backup", None)
    if seen.loss_seconds is not None and seen.loss_seconds > seen.rpo_seconds:
        detail = f"the newest moment that is known to be reachable is {seen.loss_seconds:.0f} s ago"
        hint = f"{seen.rpo_seconds:.0f} s are allowed: look at the receiver, and at {cluster}_wal_watch"
        yield Problem("more would be lost than the objective allows", detail, hint, seen.latest)
    if seen.latest is not None and seen.latest - seen.at > _AHEAD:
        detail = f"the newest commit in the archive is {(seen.latest - seen.at).total_seconds():.0f} s in the future"
        hint = "set the clocks of the server and of Airflow's machine; until then more may be lost than is shown"
        yield Problem("clocks differ", detail, hint, None)
    if seen.predicted_seconds is not None and seen.predicted_seconds > seen.rto_seconds:
        detail = f"{seen.predicted_seconds:.0f} s are predicted, {seen.rto_seconds:.0f} s allowed"
        hint = "a newer base or block incremental shortens it"
        yield Problem("recovery takes longer than the objective", detail, hint, None)


def _repository(name: str, holdings: Iterable[Holding], wal_copies: Iterable[WalCopy]) -> Repository:
    wal = next((one for one in wal_copies if one.repository == name), None)
    own = tuple(one for one in holdings if one.repository == name)
    return Repository(name, own, wal.whole_at if wal else None, wal.error if wal else "")


def _drilled(drill: Drill) -> Drilled:
    return Drilled(
        scenario=drill.scenario.label,
        subject=drill.subject,
        started_at=drill.started_at,
        ok=drill.ok,
        rto_seconds=drill.rto_seconds,
        rpo_seconds=drill.rpo_seconds,
        predicted_seconds=drill.predicted_seconds,
    )

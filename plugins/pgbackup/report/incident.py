"""The written report of a disaster recovery, as far as it came. Pure: the journal in, subject and texts out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from pgbackup.domain.incident import Doing, Event, Fact, Incident, What
from pgbackup.domain.settings import Contact, Objectives
from pgbackup.report.mail import render

_FOLLOW_UPS = (
    "take a fresh base, unless the run did: the timeline changed, and nothing before it reaches what comes now",
    "create the receiver's slot and start the receiver again (`pgbackup wal create-slot`, `pgbackup wal receive`)",
    "rebuild the standbys from the recovered server, and decide about each logical subscriber",
    "compare the predicted with the measured time, and the five phases with the protocol's minutes",
    "keep this folder with the incident; copy the backups to as many places as before",
    "rotate the passwords and keys that were on the lost machine",
)
_GO_ON = (
    "read the failed task's log in the run: its HINT says what to do",
    "when the cause is gone, clear the failed task: the recovery goes on where it stopped",
    "to give it up, stop the recovered server, and remove its folder",
    f"production was not touched, unless the timeline says: {Doing.SWITCH}",
)


@dataclass(frozen=True)
class IncidentReport:
    """What a report tells of; ``note`` is said above everything else."""

    cluster: str
    incident: Incident
    objectives: Objectives
    now: datetime
    run: str
    link: str
    note: str = ""
    contacts: tuple[Contact, ...] = ()


@dataclass(frozen=True)
class _Part:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def compose_incident(report: IncidentReport) -> tuple[str, str, str]:
    """Return (subject, Markdown, HTML)."""
    said = headline(report.incident)
    values = {
        "report": report,
        "headline": said,
        "parts": tuple(part for part in _parts(report) if part.rows),
        "steps": (*(_GO_ON if report.incident.failed or report.note else ()), *_FOLLOW_UPS),
        "contacts": report.contacts,
    }
    markdown = render("incident.md.jinja", **values, plain=_plain)
    return (
        f"[{report.cluster}] disaster recovery: {said}",
        markdown,
        render("incident.html.jinja", **values),
    )


def headline(incident: Incident) -> str:
    """Say in a few words how it stands."""
    wrong = sum(not finding.ok for finding in incident.findings)
    findings = f"; {wrong} of {len(incident.findings)} FINDINGS DO NOT HOLD" if wrong else ""
    if incident.rejected:
        return f"NOT APPROVED: {incident.rejected.step}{findings}"
    if incident.failed:
        return f"STOPPED at: {incident.failed[-1]}{findings}"
    if incident.rto is None:
        return f"under way{findings}"
    lost = "unknown" if incident.rpo is None else _span(incident.rpo)
    return f"service restored after {_span(incident.rto)}, lost {lost}{findings}"


def _parts(report: IncidentReport) -> Iterator[_Part]:
    incident = report.incident
    yield _Part("What was measured", ("", "", ""), tuple(_measures(report)))
    yield _Part("Phases", ("phase", "allowed", "took", "due", "ended", ""), tuple(_phases(report)))
    found = tuple(
        (str(step), one.name, "holds" if one.ok else "DOES NOT HOLD", one.detail, one.hint)
        for step, event in incident.last().items()
        for one in event.findings
    )
    wrong_first = tuple(sorted(found, key=lambda row: row[2]))
    yield _Part("Findings", ("step", "finding", "", "", "what to do"), wrong_first)
    decided = tuple((_utc(one.at), str(one.step or ""), one.what, one.detail) for one in incident.decisions)
    yield _Part("Decisions, and who made them", ("when", "about", "", ""), decided)
    yield _Part("Timeline", ("when", "", "step", ""), tuple(_line(event) for event in incident.events))


def _measures(report: IncidentReport) -> Iterator[tuple[str, str, str]]:
    incident, objectives = report.incident, report.objectives
    said = "" if incident.moment(Fact.HAPPENED_AT) else " (nobody said when it happened)"
    yield "declared", _utc(incident.declared_at), incident.events[0].detail
    yield "counted from", f"{_utc(incident.since)}{said}", ""
    yield "recovery time (RTO)", _measured(incident.rto), f"objective {_span(objectives.rto)}"
    at_most = "at most " if said and incident.rpo is not None else ""
    yield "data lost (RPO)", f"{at_most}{_measured(incident.rpo)}", f"objective {_span(objectives.rpo)}"
    yield "newest recovered", _utc(incident.moment(Fact.RECOVERED_TO)), "last transaction or heartbeat that came back"
    yield "newest commit known", _utc(incident.moment(Fact.NEWEST_KNOWN)), "in the repository, when it was planned"
    predicted, measured = incident.seconds(Fact.PREDICTED), incident.seconds(Fact.MEASURED)
    if predicted is not None and measured is not None:
        yield "restore, predicted", f"{predicted:.1f} s", ""
        yield "restore, measured", f"{measured:.1f} s", ""
    for name in (Fact.TARGET, Fact.REPOSITORY, Fact.FOLDER, Fact.PREPARED, Fact.BY_HAND):
        if value := incident.fact(name):
            yield name, value, ""
    if incident.unreadable:
        yield "journal", f"{incident.unreadable} lines cannot be read", "somebody was killed while writing"


def _phases(report: IncidentReport) -> Iterator[tuple[str, ...]]:
    for one in report.incident.timings():
        late = "LATE" if one.is_late(report.now) else ""
        took = _measured(one.took) if one.begun else "not begun"
        yield one.phase.name, _span(one.phase.allowed), took, _utc(one.due), _utc(one.ended), late


def _line(event: Event) -> tuple[str, ...]:
    what = f"{event.what}, with findings" if event.what is What.DONE and not event.ok else event.what
    return _utc(event.at), what, str(event.step or ""), event.detail


def _measured(time: timedelta | None) -> str:
    return "not known yet" if time is None else _span(time)


def _span(time: timedelta) -> str:
    return str(timedelta(seconds=round(time.total_seconds())))


def _utc(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def _plain(text: str) -> Markup:
    """Return a text as Markdown that is read as nothing else."""
    line = " ".join(text.split()).replace("\\", "\\\\")
    for character in "`*[]<>|":
        line = line.replace(character, f"\\{character}")
    return Markup(line)  # noqa: S704 - Markdown: HTML in it is escaped above

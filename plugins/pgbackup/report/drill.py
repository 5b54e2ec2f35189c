"""The report of drills: the checklist of each scenario, measured against predicted and allowed, the last ones. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from pgbackup.domain.drill import Drill
from pgbackup.domain.settings import Contact, Objectives
from pgbackup.report.chart import Bar, bars
from pgbackup.report.mail import cell, render

_CHARTED = 12


@dataclass(frozen=True)
class DrillReport:
    """``drills`` are those of one run, oldest first, ``history`` all that are known, newest first."""

    cluster: str
    succeeded: bool
    objectives: Objectives
    drills: tuple[Drill, ...]
    history: tuple[Drill, ...]
    run: str = ""
    link: str = ""
    reason: str = ""
    contacts: tuple[Contact, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """The scenarios that did not hold."""
        return tuple(one.scenario.label for one in self.drills if not one.ok)

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        if self.failed:
            return f"FAILED {', '.join(self.failed)}"
        if not self.succeeded:
            return "FAILED"
        longest = max((one.rto_seconds for one in self.drills), default=0.0)
        return f"recovered, {longest:.0f} s at most" if self.drills else "nothing was drilled"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What its reader has to do."""
        if not self.failed and self.succeeded:
            return ("Nothing. File this report: it is the record that the protocol asks for.",)
        return (
            "Until this is repaired, count on no recovery of this kind.",
            "Below, each item that does not hold says what to do; one that was not judged waits for another one.",
            f"Then drill again: run the DAG {self.cluster}_recovery_drill, or `pgbackup drill run`.",
            "Nothing of production was touched.",
        )

    @property
    def charted(self) -> tuple[Drill, ...]:
        """The last drills, oldest first."""
        return self.history[:_CHARTED][::-1]


def compose_drill(report: DrillReport) -> tuple[str, str]:
    """Return (subject, HTML)."""
    html = render(
        "drill.html.jinja",
        report=report,
        chart=Markup(chart(report.charted)),  # noqa: S704 - ours; the names in it are escaped
        measured=_measured,
        contacts=report.contacts,
    )
    return f"[{report.cluster}] recovery drill: {report.headline}", html


def chart(drills: tuple[Drill, ...]) -> str:
    """Draw what drills took."""
    return bars(
        [
            Bar(f"{one.started_at:%Y-%m-%d} {one.scenario.label}", one.rto_seconds, one.predicted_seconds, one.ok)
            for one in drills
        ]
    )


def drill_text(report: DrillReport) -> str:
    """Return the report in Markdown, without the chart."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: DrillReport) -> Iterator[str]:
    yield f"# {report.cluster}: recovery drill: {report.headline}"
    yield ""
    yield from (f"- {step}" for step in report.next_steps)
    for drill in report.drills:
        yield from ("", f"## {drill.scenario.label}: {'holds' if drill.ok else 'FAILED'}", "")
        yield from (f"{cell(drill.subject)}.", "")
        yield from ("| item | holds | detail | to do |", "| --- | --- | --- | --- |")
        for one in drill.findings:
            to_do = "" if one.ok else cell(one.hint)
            yield f"| {one.name} | {'yes' if one.ok else '**NO**'} | {cell(one.detail)} | {to_do} |"
        yield from ("", "| step | measured | predicted |", "| --- | ---: | ---: |")
        for step in drill.steps:
            yield f"| {step.name} | {step.seconds:.1f} s | {step.predicted:.1f} s |"
        yield f"| **RTO** | {drill.rto_seconds:.1f} s | {drill.predicted_seconds:.1f} s |"
        yield from ("", *(f"- {line}" for line in _measured(report, drill)))
    yield from ("", "## The last drills", "", "| when | scenario | holds | took | predicted | lost |")
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for last in report.charted:
        lost = "" if last.rpo_seconds is None else f"{last.rpo_seconds:.1f} s"
        yield (
            f"| {last.started_at:%Y-%m-%d %H:%M} | {last.scenario.label} | {'yes' if last.ok else '**NO**'}"
            f" | {last.rto_seconds:.1f} s | {last.predicted_seconds:.1f} s | {lost} |"
        )
    if report.contacts:
        yield from ("", "## Whom to call", "")
        yield from (f"- {cell(one.role)}: {cell(one.name)}, {cell(one.reach)}" for one in report.contacts)


def _measured(report: DrillReport, drill: Drill) -> tuple[str, ...]:
    """Say what was measured against the objectives."""
    lines = [f"RTO: {drill.rto_seconds:.1f} s measured, {report.objectives.rto} allowed"]
    if drill.rpo_seconds is not None:
        lines.append(f"RPO: {drill.rpo_seconds:.1f} s measured, {report.objectives.rpo} allowed")
    return tuple(lines)

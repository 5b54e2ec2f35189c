"""The report of a review: each item of the protocol's list, what was found, what to do, sizes over time. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from pgbackup.domain.model import Finding
from pgbackup.domain.review import Review
from pgbackup.domain.settings import Contact
from pgbackup.report.chart import line
from pgbackup.report.mail import cell, render


@dataclass(frozen=True)
class ReviewReport:
    """A review, and where it ran; without a ``link`` it was asked for from a shell."""

    review: Review
    run: str = ""
    link: str = ""
    contacts: tuple[Contact, ...] = ()

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        failed = [item.name for item in self.review.items if not item.ok]
        return f"FAILED: {', '.join(failed)}" if failed else "every item holds"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What its reader is to do."""
        cluster, period = self.review.cluster, self.review.period
        if self.review.failed:
            again = f"Then look again: run the DAG {cluster}_{period}_review, or `pgbackup review {period}`."
            return "Each finding below that does not hold says what to do.", again
        return ("Nothing. Read the warnings, file this report: it is the record that the protocol asks for.",)


def compose_review(report: ReviewReport) -> tuple[str, str]:
    """Return (subject, HTML)."""
    review = report.review
    html = render(
        "review.html.jinja",
        report=report,
        review=review,
        word=word,
        plots=[Markup(plot) for plot in plots(review)],  # noqa: S704 - ours; the names in it are escaped
        contacts=report.contacts,
    )
    return f"[{review.cluster}] {review.period} review: {report.headline}", html


def plots(review: Review) -> tuple[str, ...]:
    """Draw each series of sizes."""
    drawn = []
    for name, points in review.plots.items():
        low, high = (f"{point.bytes / 1e6:.0f} MB" for point in (points[0], points[-1]))
        since = f"{points[0].at:%Y-%m-%d}: {low}"
        drawn.append(line(name, [(point.at.timestamp(), float(point.bytes)) for point in points], since, high))
    return tuple(filter(None, drawn))


def word(finding: Finding) -> str:
    """Say in a word how a finding ended."""
    return "yes" if finding.ok else "NO" if finding.fails else finding.severity.value


def review_text(report: ReviewReport) -> str:
    """Return the report in Markdown, without the plots."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ReviewReport) -> Iterator[str]:
    review = report.review
    yield f"# {review.cluster}: {review.period} review: {report.headline}"
    yield from ("", f"{review.since:%Y-%m-%d %H:%M} to {review.until:%Y-%m-%d %H:%M} UTC.", "")
    yield from (f"- {step}" for step in report.next_steps)
    for item in review.items:
        yield from (
            "",
            f"## {item.name}",
            "",
            "| finding | holds | what was found | to do |",
            "| --- | --- | --- | --- |",
        )
        for one in item.findings:
            holds = "yes" if one.ok else f"**{word(one)}**"
            yield f"| {cell(one.name)} | {holds} | {cell(one.detail)} | {cell(one.hint)} |"
    if report.contacts:
        yield from ("", "## Whom to call", "")
        yield from (f"- {cell(one.role)}: {cell(one.name)}, {cell(one.reach)}" for one in report.contacts)

"""The mail of one DAG run. Pure: facts in, subject and HTML out; every name is escaped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from html import escape
from html.parser import HTMLParser

from jinja2 import Environment, PackageLoader, StrictUndefined

from pgbackup.domain.model import Backup, State, Verdict, Verification
from pgbackup.domain.settings import Contact


@dataclass(frozen=True)
class RunReport:
    """What a mail tells of."""

    cluster: str
    procedure: str
    succeeded: bool
    run: str
    link: str
    reason: str
    contacts: tuple[Contact, ...] = ()
    backups: tuple[Backup, ...] = ()
    verifications: tuple[Verification, ...] = ()


_LINES = frozenset({"p", "h1", "h2", "h3", "li", "ul", "tr", "br", "table", "pre"})
_UNREAD = frozenset({"svg", "style", "title"})

_ENVIRONMENT = Environment(
    loader=PackageLoader("pgbackup.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def compose(report: RunReport) -> tuple[str, str]:
    """Return (subject, HTML)."""
    subject = f"[{report.cluster}] {report.procedure}: {headline(report)}"
    html = render(
        "run.html.jinja",
        report=report,
        headline=headline(report),
        next_steps=next_steps(report),
        contacts=report.contacts,
        megabytes=lambda count: f"{(count or 0) / 1e6:.1f} MB",
    )
    return " ".join(subject.split()), html


def render(template: str, **values: object) -> str:
    """Fill a template of ours."""
    return _ENVIRONMENT.get_template(template).render(utc=_utc, **values)


def plain(html: str) -> str:
    """Return what a mail says, without markup: a line a paragraph, heading or item."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line not in {"", "-"})


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    line = " ".join(text.split()).replace("\\", "\\\\")
    for character in "`*[]<>|":
        line = line.replace(character, f"\\{character}")
    return line


def with_note(html: str, note: str) -> str:
    """Put a line of text before a mail's first heading."""
    return html.replace("<h2>", f"<p><i>{escape(note)}</i></p>\n<h2>", 1)


class _Reader(HTMLParser):
    """Collects the text of a mail; what is drawn has its table beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - HTMLParser's own signature
        self._unread += tag in _UNREAD
        self.parts.append("\n- " if tag == "li" else "\n" if tag in _LINES else " ")

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag in _UNREAD
        self.parts.append("\n" if tag in _LINES else " ")

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self.parts.append(data.replace("\n", " "))


def headline(report: RunReport) -> str:
    """Say the outcome in a few words."""
    if report.verifications:
        rejected = [one for one in report.verifications if one.verdict is Verdict.REJECTED]
        undecided = [one for one in report.verifications if one.verdict is None]
        if rejected:
            return f"REJECTED {rejected[0].backup_id}"
        if undecided or not report.succeeded:
            return "FAILED, no verdict"
        return f"verified {report.verifications[0].backup_id}"
    if not report.succeeded:
        return "FAILED"
    captured = [backup for backup in report.backups if backup.state is not State.FAILED]
    return f"captured {captured[0].id}" if captured else "done"


def next_steps(report: RunReport) -> tuple[str, ...]:
    """Say what the reader has to do."""
    if any(one.verdict is Verdict.REJECTED for one in report.verifications):
        return (
            "This copy is not equal to its source and does not count; the last verified backup is what you have.",
            f"Take a new one now: run the DAG {report.cluster}_full_backup, or `pgbackup backup full --verify`.",
            "The rejected backup is kept for study: `pgbackup show` prints every finding.",
        )
    if not report.succeeded:
        captured = any(backup.state is State.CAPTURED for backup in report.backups)
        return (
            "The backup below is durable and counts once it is verified; what came after it failed."
            if captured
            else "No new backup counts from this run; the last verified one is still what you have (`pgbackup list`).",
            "Open the run, read the failed task's log: each error says what, where and what to do.",
            "`pgbackup doctor` checks server, rights, keys and space. Then clear the failed task, or start a new run.",
        )
    unlike = [one.reason for one in report.verifications if one.verdict is Verdict.VERIFIED and one.reason]
    if unlike:
        return (f"Nothing. This backup was restored and is whole; {unlike[0]}.",)
    if report.verifications:
        return ("Nothing. This backup was restored and found equal to its source.",)
    return ("Nothing. Its verification runs now; the backup counts once that mail says verified.",)


def _utc(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""

"""The mail of a storage audit: what was found, and what to do. Pure: facts in, subject and HTML out."""

from __future__ import annotations

from dataclasses import dataclass

from pgbackup.domain.settings import Contact
from pgbackup.report.mail import render

_DONE = ("Read the warnings, and what could not be told, in the tables below; nothing has to be mended.",)
_FAILED = (
    "Each failure in the tables below says what to do; a table that is missing: open the run, its red task says why.",
    "`pgbackup audit` looks again at once; the next run is in three months.",
)


@dataclass(frozen=True)
class AuditNews:
    """What a mail tells of an audit; ``text`` is the findings of every repository, in Markdown."""

    cluster: str
    procedure: str
    succeeded: bool
    run: str
    link: str
    text: str
    reason: str
    contacts: tuple[Contact, ...]

    @property
    def headline(self) -> str:
        """How it ended."""
        return "nothing has to be mended" if self.succeeded else "FAILED"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What its reader is to do."""
        return _DONE if self.succeeded else _FAILED


def compose_audit(news: AuditNews) -> tuple[str, str]:
    """Return (subject, HTML)."""
    html = render("news.html.jinja", news=news, contacts=news.contacts)
    return f"[{news.cluster}] {news.procedure}: {news.headline}", html


def audit_report(news: AuditNews) -> str:
    """Return it in Markdown."""
    steps = "\n".join(f"- {step}" for step in news.next_steps)
    return f"# {news.cluster}: {news.procedure}: {news.headline}\n\n{steps}\n\n{news.text}\n"

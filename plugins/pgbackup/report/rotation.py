"""The mail of a rotation: what went, and why the rest stays. Pure: facts in, subject and HTML out."""

from __future__ import annotations

from dataclasses import dataclass

from pgbackup.domain.settings import Contact
from pgbackup.report.mail import render

_DONE = ("Nothing. Every backup that is kept has a rule; the plan below says which.",)
_FAILED = (
    "Nothing that a rule keeps was touched. Open the run: the red task's log says what could not be deleted, or why.",
    "The next rotation tries again; `pgbackup plan-rotation` shows what it would do, `pgbackup rotate` does it now.",
)


@dataclass(frozen=True)
class RotationNews:
    """What a mail tells of a rotation; ``text`` is what was deleted and planned, in Markdown."""

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
        return "done" if self.succeeded else "FAILED"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What its reader is to do."""
        return _DONE if self.succeeded else _FAILED


def compose_rotation(news: RotationNews) -> tuple[str, str]:
    """Return (subject, HTML)."""
    html = render("news.html.jinja", news=news, contacts=news.contacts)
    return f"[{news.cluster}] {news.procedure}: {news.headline}", html

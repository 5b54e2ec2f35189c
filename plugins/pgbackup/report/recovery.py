"""The mails of a recovery: one that asks for an approval, one when it ended. Pure: facts in, subject and HTML out."""

from __future__ import annotations

from dataclasses import dataclass

from pgbackup.domain.settings import Contact
from pgbackup.report.mail import render

APPROVAL = (
    "Open the run's required action: read the plan, type the cluster's name, approve or reject.",
    "Nothing is touched until then; unanswered in time, the run fails and nothing was touched.",
)
DONE = ("The report below says how to look at what was recovered. The protected server was not touched.",)
FAILED = (
    "The protected server was not touched. Without an approval nothing else was, either.",
    "Open the run, read the failed task's log: it says what, where and what to do.",
    "`recover` red? When the cause is gone, clear that task: it goes on where it stopped.",
    "To give it up, remove the folder that its log names.",
)


@dataclass(frozen=True)
class RecoveryNews:
    """What a mail tells of a recovery; ``text`` is its plan or its report, in Markdown."""

    cluster: str
    procedure: str
    headline: str
    run: str
    link: str
    next_steps: tuple[str, ...]
    text: str = ""
    reason: str = ""
    contacts: tuple[Contact, ...] = ()


def compose_recovery(news: RecoveryNews) -> tuple[str, str]:
    """Return (subject, HTML)."""
    html = render("recovery.html.jinja", news=news, contacts=news.contacts)
    return f"[{news.cluster}] {news.procedure}: {news.headline}", html

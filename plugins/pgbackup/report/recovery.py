"""The mails of a recovery: one that asks for an approval, one when it ended. Pure: facts in, subject and HTML out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pgbackup.domain.settings import Contact
from pgbackup.report.mail import render


class Stage(StrEnum):
    """How far a recovery is, as the subject of its mail says it."""

    ASKED = "waits for an APPROVAL"
    DONE = "recovered"
    FAILED = "FAILED"


_BESIDE = {"recover point in time"}
"""Procedures that never touch the protected server, unless a switch was approved."""
_NEXT = {
    Stage.ASKED: (
        "Open the run's required action: read the plan, type the cluster's name, approve or reject.",
        "Nothing of the plan is done until then; unanswered in time, the run fails and nothing of it was done.",
    ),
    Stage.DONE: ("The report below says what came back, and what to do next.",),
    Stage.FAILED: (
        "What nobody approved was not done.",
        "Open the run, read the failed task's log: it says what, where, how it stands now, and what to do.",
        "When the cause is gone, clear that task: it goes on where it stopped, or says why it cannot.",
    ),
}


@dataclass(frozen=True)
class RecoveryNews:
    """What a mail tells of a recovery; ``text`` is its plan or its report, in Markdown.

    ``may_have_switched`` says that somebody approved to put what was recovered in the place of the present cluster, or
    that this is not known.
    """

    cluster: str
    procedure: str
    stage: Stage
    run: str
    link: str
    text: str = ""
    may_have_switched: bool = False
    reason: str = ""
    contacts: tuple[Contact, ...] = ()

    @property
    def headline(self) -> str:
        """How it stands."""
        return self.stage

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What its reader is to do, and to know first."""
        untouched = self.procedure in _BESIDE and self.stage is not Stage.ASKED and not self.may_have_switched
        return (*(("The protected server was not touched.",) if untouched else ()), *_NEXT[self.stage])


def compose_recovery(news: RecoveryNews) -> tuple[str, str]:
    """Return (subject, HTML)."""
    html = render("news.html.jinja", news=news, contacts=news.contacts)
    return f"[{news.cluster}] {news.procedure}: {news.headline}", html

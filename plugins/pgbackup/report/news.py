"""The mail of a rotation, an audit or a review that came to no report. Pure: facts in, subject and HTML out."""

from __future__ import annotations

from dataclasses import dataclass

from pgbackup.domain.settings import Contact, Settings
from pgbackup.report.mail import render


@dataclass(frozen=True)
class Words:
    """How a procedure's ends are called, and what their reader is to do."""

    done: str
    after_success: tuple[str, ...]
    after_failure: tuple[str, ...]


ROTATION = Words(
    "done",
    ("Nothing. Every backup that is kept has a rule; the plan below says which.",),
    (
        "Nothing that a rule keeps was touched. Open the run: the red task's log says what was not deleted, and why.",
        "The next rotation tries again; `pgbackup plan-rotation` shows what it does, `pgbackup rotate` does it now.",
    ),
)
AUDIT = Words(
    "nothing has to be mended",
    ("Read the warnings, and what could not be told, in the tables below; nothing has to be mended.",),
    (
        "Each failure in the tables below says what to do; where a table is missing, the run's red task says why.",
        "`pgbackup audit` looks again at once; the next run is in three months.",
    ),
)
REVIEW = Words(
    "done",
    (),
    ("Open the run: the red task's log says what ended it; then clear it, or run `pgbackup review`.",),
)


@dataclass(frozen=True)
class News:
    """What a mail tells of a run; ``text`` is what it did or found, in Markdown. No ``link``: it is not Airflow's."""

    cluster: str
    procedure: str
    words: Words
    succeeded: bool
    run: str
    link: str
    text: str
    reason: str
    contacts: tuple[Contact, ...]

    @property
    def headline(self) -> str:
        """How it ended."""
        return self.words.done if self.succeeded else "FAILED"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What its reader is to do."""
        return self.words.after_success if self.succeeded else self.words.after_failure


def audit_news(
    settings: Settings, cluster: str, place: str, text: str, *, succeeded: bool, run: str, link: str = ""
) -> News:
    """Tell of the audit of one repository, or of this machine."""
    return News(
        cluster, f"quarterly audit of {place}", AUDIT, succeeded, run, link, text, reason="", contacts=settings.contacts
    )


def compose_news(news: News) -> tuple[str, str]:
    """Return (subject, HTML)."""
    html = render("news.html.jinja", news=news, contacts=news.contacts)
    return f"[{news.cluster}] {news.procedure}: {news.headline}", html


def news_text(news: News) -> str:
    """Return it in Markdown."""
    steps = "\n".join(f"- {step}" for step in news.next_steps)
    return f"# {news.cluster}: {news.procedure}: {news.headline}\n\n{steps}\n\n{news.text}\n"

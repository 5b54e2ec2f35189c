"""The mail about a change: what the watch found to fail, or to hold again. Pure: facts in, subject and HTML out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgbackup.domain.model import Watched
from pgbackup.domain.settings import Contact
from pgbackup.report.mail import render


@dataclass(frozen=True)
class Alert:
    """What changed since people last heard of it, and what fails as they know."""

    cluster: str
    run: str
    link: str
    news: tuple[Watched, ...]
    known: tuple[Watched, ...] = ()
    contacts: tuple[Contact, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    """By name: what it means for recovery when it does not hold."""


def compose_alert(alert: Alert) -> tuple[str, str]:
    """Return (subject, HTML)."""
    failed = [one for one in alert.news if not one.ok]
    recovered = [one for one in alert.news if one.ok]
    headline = "; ".join(
        f"{word}: {', '.join(one.name for one in found)}"
        for word, found in (("FAILED", failed), ("holds again", recovered))
        if found
    )
    html = render(
        "alert.html.jinja",
        alert=alert,
        headline=headline,
        failed=failed,
        recovered=recovered,
        contacts=alert.contacts,
    )
    return f"[{alert.cluster}] wal watch: {headline}", html

"""The mail about a change of what is watched: what is new, what is known, nothing unescaped."""

from __future__ import annotations

from datetime import UTC, datetime

from pgbackup.domain.model import Watched
from pgbackup.domain.settings import Contact
from pgbackup.report.alert import Alert, compose_alert

MOMENT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
CONTACT = Contact(role="DBA", name="D. & Sons", reach="+1 555 0100")


def watched(name: str, *, ok: bool, told_ok: bool = True, detail: str = "") -> Watched:
    return Watched(name, ok, detail, "" if ok else f"repair {name}", "dag/run", MOMENT, MOMENT, told_ok)


def mail(*news: Watched, known: tuple[Watched, ...] = ()) -> tuple[str, str]:
    return compose_alert(Alert("streamflix", "dag run", "http://airflow/run?a=1&b=2", news, known, (CONTACT,)))


def test_an_alert_says_what_fails_since_when_what_to_do_and_whom_to_call() -> None:
    known = watched("a lag", ok=False, told_ok=False)
    subject, html = mail(watched("a gap", ok=False, detail="<b>'x'</b>"), known=(known,))
    assert subject == "[streamflix] wal watch: FAILED: a gap"
    for text in ("2026-01-31 02:00:00 UTC", "repair a gap", "Fails as told before", "repair a lag", "What it means"):
        assert text in html
    assert "&lt;b&gt;&#39;x&#39;&lt;/b&gt;" in html
    assert "D. &amp; Sons" in html
    assert "a=1&amp;b=2" in html


def test_a_recovery_says_that_nothing_is_to_do_only_when_nothing_is() -> None:
    subject, html = mail(watched("a gap", ok=True, told_ok=False))
    assert subject == "[streamflix] wal watch: holds again: a gap"
    assert "Nothing to do" in html
    _, html = mail(watched("a gap", ok=True, told_ok=False), known=(watched("a lag", ok=False, told_ok=False),))
    assert "Nothing to do" not in html


def test_one_mail_tells_both() -> None:
    subject, _ = mail(watched("a gap", ok=True, told_ok=False), watched("a lag", ok=False), watched("x", ok=False))
    assert subject == "[streamflix] wal watch: FAILED: a lag, x; holds again: a gap"

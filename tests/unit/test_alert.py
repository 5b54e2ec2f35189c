"""The mail about a change of what is watched: what is new, what is known, nothing unescaped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.model import Watched
from pgbackup.domain.settings import Contact
from pgbackup.report.alert import Alert, compose_alert
from pgbackup.report.mail import plain, with_note

MOMENT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
CONTACT = Contact(role="DBA", name="D. & Sons", reach="+1 555 0100")


def watched(name: str, *, ok: bool, told_ok: bool = True, detail: str = "") -> Watched:
    return Watched(name, ok, detail, "" if ok else f"repair {name}", "dag/run", MOMENT, MOMENT, told_ok)


def mail(*news: Watched, known: tuple[Watched, ...] = ()) -> tuple[str, str]:
    meanings = {"a gap": "no way back"}
    return compose_alert(
        Alert("streamflix", "dag run", "http://airflow/run?a=1&b=2", news, known, (CONTACT,), meanings)
    )


def test_an_alert_says_what_fails_since_when_what_to_do_and_whom_to_call() -> None:
    known = watched("a lag", ok=False, told_ok=False)
    subject, html = mail(watched("a gap", ok=False, detail="<b>'x'</b>"), known=(known,))
    assert subject == "[streamflix] wal watch: FAILED: a gap"
    for text in ("2026-01-31 02:00:00 UTC", "repair a gap", "Fails as told before", "repair a lag", "no way back"):
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


def test_what_came_back_says_when_its_end_is_told() -> None:
    flapping = Watched("a lag", False, "", "", "dag/run", MOMENT, MOMENT, True, relapses=3)
    _, html = mail(flapping)
    assert "it comes and goes, 4 times by now" in html
    assert "when it has held for 2:00:00" in html


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_what_comes_and_goes_is_told_a_few_times_and_the_truth_in_the_end(looks: list[bool]) -> None:
    """Every five minutes a look: whatever it sees, few messages; and once it holds for good, people know that."""
    state, told, relapses, since, recovered, messages = True, True, 0, MOMENT, None, 0
    for number, ok in enumerate([*looks, *[looks[-1]] * 80]):
        now = MOMENT + number * timedelta(minutes=5)
        if ok is not state:
            if not ok:
                relapses = relapses + 1 if recovered else 0
            else:
                recovered = now
            state, since = ok, now
        one = Watched("a lag", ok, "", "", "dag/run", since, now, told, relapses)
        if one.is_news:
            told, messages = ok, messages + 1
    assert told is looks[-1], "six hours and more without a change: told"
    hours = len(looks) / 12 + 6
    assert messages <= 5 + hours, "not a message every five minutes"


def test_a_mail_as_text_has_every_word_and_no_markup() -> None:
    subject, html = mail(watched("a gap", ok=False, detail="<b>x</b> & y"))
    text = plain(with_note(html, "kept since <then>"))
    lines = text.splitlines()
    assert lines[0] == "kept since <then>"
    assert lines[1] == "streamflix: FAILED: a gap"
    assert any("<b>x</b> & y" in line for line in lines)
    assert "- DBA: D. & Sons, +1 555 0100" in lines
    assert "<li>" not in text
    assert subject.endswith("a gap")

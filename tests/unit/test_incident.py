"""The journal of a disaster recovery survives who is killed writing it; its report says what was measured, no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.errors import ConfigurationError, RefusedError, UnfitError
from pgbackup.domain.incident import PHASES, Doing, Fact, Incident, allowed_until
from pgbackup.domain.model import Finding
from pgbackup.domain.settings import Contact, Objectives, parse_settings
from pgbackup.recover.disaster import refuse_findings
from pgbackup.recover.incident import Journal, Told, journal_of
from pgbackup.report.incident import IncidentReport, compose_incident

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOSTILE = "a`|<script>*x*\n# [b](c)"


class Clock:
    """Goes one minute a look."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += MINUTE
        return self.now


def journal(folder: Path) -> Journal:
    made = Journal(folder / "incidents" / "streamflix_1", Clock())
    made.declare(NOON, "the disk is gone", {Fact.HAPPENED_AT: (NOON - MINUTE).isoformat()})
    return made


def carried_out(made: Journal) -> Incident:
    for step in Doing:
        facts = {Fact.RECOVERED_TO: (NOON - 3 * MINUTE).isoformat()} if step is Doing.RESTORE else {}
        made.take(step, partial(Told, "done", (), facts))
    return made.read()


def report(incident: Incident, now: datetime = NOON) -> IncidentReport:
    contact = Contact(role="DBA", name="D. & Sons", reach="+1")
    return IncidentReport("streamflix", incident, Objectives(), now, "dag run", "http://x/?a=1&b=2", "", (contact,))


def test_the_phases_are_the_protocols() -> None:
    minutes = {"assessment": 15, "preparation": 30, "recovery": 120, "validation": 60, "cutover": 15}
    assert {phase.name: phase.allowed // MINUTE for phase in PHASES} == minutes
    assert [allowed_until(phase) // MINUTE for phase in PHASES] == [15, 45, 165, 225, 240]
    assert [step for phase in PHASES for step in phase.steps] == list(Doing)


def test_what_was_written_is_read_in_order_and_private(tmp_path: Path) -> None:
    made = journal(tmp_path)
    incident = carried_out(made)
    assert [event.at for event in incident.events] == sorted(event.at for event in incident.events)
    assert incident.failed == ()
    assert (incident.rpo, incident.rto) == (2 * MINUTE, 29 * MINUTE)  # of 15 steps, monitoring is the 14th
    assert {path.stat().st_mode & 0o777 for path in made.folder.iterdir()} == {0o600}
    assert made.folder.stat().st_mode & 0o777 == 0o700
    made.declare(NOON + MINUTE, "again", {})
    assert made.read() == incident, "a try again declares nothing"


@given(cut=st.integers(1, 80))
def test_half_a_line_costs_that_line_only(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    made = journal(tmp_path_factory.mktemp("torn"))
    made.take(Doing.ASSESS, lambda: Told("scope"))
    before = made.read()
    path = made.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    torn = made.read()
    assert torn.events in (before.events, before.events[:-1])
    made.decide(Doing.PLAN, "by dana", approved=True)
    after = made.read()
    assert after.events[:-1] == torn.events
    assert after.events[-1].detail == "by dana"
    assert after.unreadable == torn.unreadable


def test_what_fails_is_written_down_and_raised(tmp_path: Path) -> None:
    made = journal(tmp_path)

    def fail() -> Told:
        raise UnfitError("no space", hint="free some")

    def interrupted() -> Told:
        raise KeyboardInterrupt

    with pytest.raises(UnfitError):
        made.take(Doing.ASSESS, fail)
    with pytest.raises(KeyboardInterrupt):
        made.take(Doing.PLAN, interrupted)
    incident = made.read()
    assert incident.failed == (Doing.ASSESS, Doing.PLAN)
    assert "HINT: free some" in incident.last()[Doing.ASSESS].detail
    made.take(Doing.ASSESS, lambda: Told("now"))
    assert made.read().failed == (Doing.PLAN,)
    subject, markdown, html = compose_incident(report(made.read()))
    assert "STOPPED at: determine recovery point" in subject
    for text in (markdown, html):
        assert "clear the failed task" in text
        assert "service restored" not in text


def test_a_rejection_is_told_and_nothing_else_is_claimed(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.take(Doing.PLAN, lambda: Told("the plan"))
    assert "under way" in compose_incident(report(made.read()))[0]
    made.decide(Doing.PLAN, "the plan was rejected", approved=False)
    subject, markdown, _ = compose_incident(report(made.read()))
    assert subject.endswith("NOT APPROVED: determine recovery point")
    assert "the plan was rejected" in markdown


def test_a_step_that_was_killed_is_not_ended(tmp_path: Path) -> None:
    made = journal(tmp_path)
    incident = carried_out(made)
    killed = Incident(incident.name, incident.events[:-1])
    assert incident.timings()[-1].ended is not None
    assert killed.timings()[-1].ended is None
    assert killed.failed == (Doing.DOCUMENT,)


def test_a_phase_is_late_when_its_end_or_now_is_behind_the_minutes_of_all_before_it(tmp_path: Path) -> None:
    timings = carried_out(journal(tmp_path)).timings()
    assert [one.due for one in timings] == [NOON + allowed_until(one.phase) for one in timings]
    assert [one.took for one in timings] == [5 * MINUTE] * 5
    assert not any(one.is_late(NOON + timedelta(days=1)) for one in timings), "what ended in time stays so"
    begun = journal(tmp_path / "other").read().timings()[0]
    assert not begun.is_late(NOON + 15 * MINUTE)
    assert begun.is_late(NOON + 16 * MINUTE)


def test_nothing_that_somebody_named_is_markup(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.take(Doing.ASSESS, lambda: Told(HOSTILE, (Finding(HOSTILE, False, 0.1, HOSTILE, HOSTILE),)))
    made.decide(Doing.PLAN, HOSTILE, approved=True)
    subject, markdown, html = compose_incident(report(made.read()))
    assert "1 of 1 FINDINGS DO NOT HOLD" in subject
    assert "<script>" not in html
    assert "<script>" not in markdown.replace("\\<script\\>", "")
    assert all(row.count(" | ") < 8 for row in markdown.splitlines())
    assert "\n# [b]" not in markdown
    assert "DOES NOT HOLD" in html


def test_a_report_says_what_was_measured_against_the_objectives(tmp_path: Path) -> None:
    made = journal(tmp_path)
    carried_out(made)
    made.decide(Doing.SWITCH, "by dana", approved=True)
    subject, markdown, html = compose_incident(report(made.read()))
    assert subject == "[streamflix] disaster recovery: service restored after 0:29:00, lost 0:02:00"
    for text in ("objective 4:00:00", "objective 1:00:00", "rebuild the standbys", "by dana", "D. "):
        assert text in markdown
        assert text in html


def test_a_recovery_with_a_finding_that_does_not_hold_is_no_success(tmp_path: Path) -> None:
    """Until the step that found it was tried again, and finds otherwise."""
    made = journal(tmp_path)
    carried_out(made)
    made.take(Doing.MONITOR, lambda: Told("", (Finding("WAL leaves", False, 0.1, "no slot"),)))
    subject, markdown, _ = compose_incident(report(made.read()))
    assert "1 of 1 FINDINGS DO NOT HOLD" in subject
    assert "DOES NOT HOLD" in markdown
    with pytest.raises(RefusedError, match="not everything is as it should be"):
        refuse_findings(made.read())
    made.take(Doing.MONITOR, lambda: Told("", (Finding("WAL leaves", True, 0.1),)))
    refuse_findings(made.read())


@pytest.mark.parametrize("step", [Doing.INTEGRITY, Doing.MONITOR])
def test_a_step_whose_task_somebody_marked_as_successful_is_not_done(tmp_path: Path, step: Doing) -> None:
    never = journal(tmp_path / "never")
    for one in Doing:
        if one is not step:
            never.take(one, lambda: Told("done"))
    failed = journal(tmp_path / "failed")
    refuse_findings(carried_out(failed))
    with pytest.raises(UnfitError), failed.failing(step):
        raise UnfitError("no disk")
    for made in (never, failed):
        with pytest.raises(RefusedError, match=step.value):
            refuse_findings(made.read())


def test_a_name_is_no_path(tmp_path: Path) -> None:
    paths = {"backups": str(tmp_path)}
    document = {"version": 1, "paths": paths, "catalog": {"service": "c"}, "encryption": {"enabled": False}}
    clusters = {"streamflix": {"connection": {"service": "s"}}}
    settings = parse_settings({**document, "clusters": clusters}, source="the test")
    for name in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(ConfigurationError):
            journal_of(settings, name, Clock())
    with pytest.raises(RefusedError, match="no incident"):
        journal_of(settings, "streamflix_1", Clock()).read()
    assert list(tmp_path.iterdir()) == []

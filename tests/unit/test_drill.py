"""Drills, as far as they are pure: the checklist, the moment, what a repository keeps, the report with its chart."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain import findings as named
from pgbackup.domain.drill import (
    ACCESSIBLE,
    CHECKLIST,
    CONNECTS,
    HEARTBEATS,
    PERFORMS,
    REACHED,
    RPO,
    RTO,
    Drill,
    DrillStep,
    Scenario,
    checklist,
    choose_moment,
    drill_document,
    drill_of,
    seal_drill,
    unseal_drill,
)
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Finding
from pgbackup.domain.settings import Contact, Objectives
from pgbackup.report.chart import Bar, bars
from pgbackup.report.drill import DrillReport, compose_drill, drill_text

ZERO = datetime(2026, 1, 31, tzinfo=UTC)
NAMES = sorted(set().union(*CHECKLIST.values()))
moments = st.integers(0, 10**6).map(lambda second: ZERO + timedelta(seconds=second))
findings = st.lists(
    st.builds(
        Finding, st.sampled_from(NAMES), st.booleans(), st.floats(0, 10), st.text(max_size=9), st.text(max_size=9)
    )
)


def seen(name: str, *, ok: bool = True) -> Finding:
    return Finding(name, ok, 1.0, f"about {name}", "do it")


def drilled(**changes: object) -> Drill:
    done = Drill(
        cluster="streamflix",
        scenario=Scenario.POINT_IN_TIME,
        subject="streamflix as of <b>then</b>",
        started_at=ZERO,
        finished_at=ZERO + timedelta(minutes=1),
        rpo_seconds=3.0,
        steps=(DrillStep("fetch and decrypt", 2.0, 1.0), DrillStep("replay", 4.0, 8.0)),
        findings=checklist(map(seen, NAMES)),
        owner="dag/run",
    )
    return dataclasses.replace(done, **changes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ the checklist


def test_every_finding_of_a_restore_belongs_to_one_item() -> None:
    known = {value for name, value in vars(named).items() if name.isupper() and isinstance(value, str)}
    known |= {REACHED, HEARTBEATS, RTO, RPO}
    assert known - {named.LATEST, named.UNCOMPARED} == set(NAMES)  # a drill takes no adopted backup
    assert sum(map(len, CHECKLIST.values())) == len(NAMES)


def test_all_seven_hold_when_everything_does() -> None:
    assert [(one.name, one.ok) for one in checklist(map(seen, NAMES))] == [(item, True) for item in CHECKLIST]


@given(findings)
def test_an_item_holds_only_when_something_says_so_and_nothing_says_otherwise(found: list[Finding]) -> None:
    items = checklist(found)
    assert [one.name for one in items] == list(CHECKLIST)
    for item in items:
        parts = [one for one in found if one.name in CHECKLIST[item.name]]
        if item.ok:
            assert parts
            assert all(one.ok for one in parts)
        if not all(one.ok for one in parts):
            assert not item.ok
        assert item.detail


@pytest.mark.parametrize("item", list(CHECKLIST))
def test_what_nothing_speaks_for_is_not_judged(item: str) -> None:
    found = [seen(name) for name in NAMES if name not in CHECKLIST[item]]
    missing = [one for one in checklist(found) if not one.ok]
    assert [one.name for one in missing] == [item]
    assert missing[0].detail.startswith("not judged")


def test_a_loss_within_the_objective_is_no_performance() -> None:
    [item] = [one for one in checklist([seen(RPO)]) if one.name == PERFORMS]
    assert (item.ok, item.detail.startswith("not judged")) == (False, True)


def test_who_stopped_it_is_the_reason_why_nothing_was_judged() -> None:
    items = {one.name: one for one in checklist([seen(named.BYTES)], ("no space", "free some"))}
    assert items[ACCESSIBLE].ok
    assert (items[CONNECTS].detail, items[CONNECTS].hint) == ("not judged: no space", "free some")


# --------------------------------------------------------------------------------------------------------- the moment


@given(st.lists(moments), moments, moments)
def test_a_moment_lies_between_two_neighbours_in_the_window(
    heartbeats: list[datetime], one: datetime, other: datetime
) -> None:
    earliest, latest = sorted((one, other))
    inside = sorted({beat for beat in heartbeats if earliest <= beat <= latest})
    if len(inside) < 2:
        with pytest.raises(RefusedError, match="no two heartbeats"):
            choose_moment(heartbeats, earliest, latest)
        return
    chosen = choose_moment(heartbeats, earliest, latest)
    assert earliest <= chosen.before <= chosen.target < chosen.after <= latest
    assert not [beat for beat in heartbeats if chosen.before < beat < chosen.after]
    assert {chosen.before, chosen.after} <= set(heartbeats)


@pytest.mark.parametrize(("hours", "behind"), [(2, 1), (24, 12), (24 * 14, 12)])
def test_it_is_half_a_day_back_or_in_the_middle(hours: int, behind: int) -> None:
    end = ZERO + timedelta(hours=hours)
    chosen = choose_moment([ZERO + timedelta(seconds=second) for second in range(0, hours * 3600, 30)], ZERO, end)
    assert abs(end - timedelta(hours=behind) - chosen.target) <= timedelta(seconds=30)


# --------------------------------------------------------------------------------------------------- what is kept


def test_a_drill_is_read_back_as_it_was() -> None:
    done = drilled()
    key, text = seal_drill(done)
    assert key.startswith("drills/streamflix/20260131_000000-point_in_time-")
    assert unseal_drill(key, text) == done
    assert drill_of(drill_document(done)) == done


@given(st.data())
def test_a_drill_with_any_byte_changed_does_not_count(data: st.DataObject) -> None:
    key, text = seal_drill(drilled())
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + bytes([text[place] ^ data.draw(st.integers(1, 255))]) + text[place + 1 :]
    with pytest.raises(RefusedError, match="damaged"):
        unseal_drill(key, changed)


# ------------------------------------------------------------------------------------------------------------- report


times = st.floats(0, 1e6)


@given(
    st.lists(
        st.builds(Bar, st.text(st.characters(codec="utf-8", exclude_categories=["C"])), times, times, st.booleans())
    )
)
def test_a_chart_is_well_formed_and_stays_in_its_frame(rows: list[Bar]) -> None:
    drawn = bars(rows)
    if not rows:
        assert drawn == ""
        return
    root = ElementTree.fromstring(drawn)  # noqa: S314 - ours
    svg = "{http://www.w3.org/2000/svg}"
    shown = root.findall(f"{svg}rect")
    assert len(shown) == len(rows)
    labels = [text.text or "" for text in root.findall(f"{svg}text")][::2]
    assert labels == [row.label for row in rows]
    for rect in shown:
        assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= float(root.attrib["width"])
    ordered = sorted(zip(rows, shown, strict=True), key=lambda pair: pair[0].seconds)
    widths = [float(rect.attrib["width"]) for _, rect in ordered]
    assert widths == sorted(widths)


def report(*drills: Drill, succeeded: bool = True) -> DrillReport:
    contact = Contact(role="DBA", name="Dana <Ortiz>", reach="+1 555 0100")
    return DrillReport("streamflix", succeeded, Objectives(), drills, drills[::-1], contacts=(contact,))


def test_a_good_report_says_what_was_measured_against_what() -> None:
    subject, html = compose_drill(report(drilled()))
    assert subject == "[streamflix] recovery drill: recovered, 6 s at most"
    text = drill_text(report(drilled()))
    for words in ("RTO: 6.0 s measured, 4:00:00 allowed", "RPO: 3.0 s measured, 1:00:00 allowed", *CHECKLIST):
        assert words in html
        assert words in text
    assert "<svg" in html
    assert "<b>then" not in html + text.replace("\\<", "")
    assert "Dana &lt;Ortiz&gt;" in html


def test_a_report_of_a_failure_says_which_and_what_to_do() -> None:
    failed = drilled(scenario=Scenario.TABLE, findings=checklist([seen(named.BYTES, ok=False)]))
    subject, html = compose_drill(report(drilled(), failed, succeeded=False))
    assert subject == "[streamflix] recovery drill: FAILED table"
    for words in ("do it", "not judged", "count on no recovery of this kind", "streamflix_recovery_drill"):
        assert words in html
        assert words in drill_text(report(drilled(), failed, succeeded=False)).replace("\\", "")


def test_a_run_that_drilled_nothing_is_a_failure_too() -> None:
    subject, html = compose_drill(dataclasses.replace(report(succeeded=False), reason="timed_out"))
    assert subject == "[streamflix] recovery drill: FAILED"
    assert "timed_out" in html

"""Reports on the Recovery page: found, read, and nothing that is written in one ever runs."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from playwright.sync_api import expect

from pgbackup.domain.review import Period
from pgbackup.report.review import ReviewReport, compose_review, review_text
from pgbackup.review import keep, review
from pgbackup.shelf import keep_report
from tests.airflow_e2e.stack import BRANCH, Stack
from tests.browser.conftest import People
from tests.browser.test_page import SCRIPT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow


def test_a_review_is_read_where_it_is_listed(stack: Stack, people: People) -> None:
    site = stack.site()
    report = ReviewReport(review(site, BRANCH, Period.MONTHLY), contacts=site.settings.contacts)
    path = keep(site.settings, report.review, html=compose_review(report)[1], text=review_text(report))
    page = people.looking("vera")
    reports = page.get_by_role("region", name="Reports")
    expect(reports.get_by_role("row", name=re.compile("monthly review"))).to_contain_text(report.headline)
    reports.get_by_role("button", name=f"Read {path.stem}").click()
    shown = page.get_by_test_id("report").frame_locator("iframe")
    expect(shown.get_by_role("heading", name=re.compile("Review disaster recovery plan"))).to_be_visible()
    expect(shown.get_by_role("heading", name="What to do")).to_be_visible()
    page.get_by_test_id("report").get_by_role("button", name="Close").click()
    expect(page.get_by_test_id("report")).to_be_hidden()


def test_whatever_a_report_holds_is_text_or_does_not_run(stack: Stack, people: People) -> None:
    evil = f"<h2>read me</h2>{SCRIPT}<script>document.querySelector('h2').append(' it runs')</script>"
    at = datetime(2099, 1, 1, tzinfo=UTC)  # the first of the list
    path = keep_report(stack.settings, BRANCH, at, "quarterly_audit_local", html=evil, text=f"# {SCRIPT}\n")
    page = people.looking("admin")
    try:
        expect(page.get_by_role("region", name="Reports")).to_contain_text(SCRIPT)
        page.get_by_role("button", name=f"Read {path.stem}").click()
        shown = page.get_by_test_id("report").frame_locator("iframe")
        expect(shown.get_by_role("heading")).to_have_text("read me")
        assert page.evaluate("globalThis.pwned") is None
    finally:
        for file in path.parent.glob(f"{path.stem}.*"):
            file.unlink()


def test_a_report_of_another_cluster_and_a_file_that_is_none_are_not_given(stack: Stack, people: People) -> None:
    path = keep_report(stack.settings, "library", datetime.now(UTC), "weekly_review", html="<p>x", text="# x\n")
    request = people.page_of("vera").request
    base = f"{stack.url}/pgbackup/api/clusters"
    assert request.get(f"{base}/library/reports/{path.stem}").json() == {"html": "<p>x"}
    for name in (path.stem, f"..%2Flibrary%2F{path.stem}", "..%2F..%2Fprotocol", f"{path.stem}.json"):
        assert request.get(f"{base}/{BRANCH}/reports/{name}").status in {404, 409}, name
    stranger = people.page_of("stranger").request
    for address in (f"{base}/library/reports", f"{base}/library/reports/{path.stem}"):
        assert stranger.get(address).status == 403


def test_without_the_local_repository_the_page_says_where_the_reports_are(stack: Stack, people: People) -> None:
    hidden = stack.backups.with_name("hidden")
    stack.backups.rename(hidden)
    stack.backups.touch()  # a scheduled run would make the folder anew
    try:
        page = people.looking("vera")
        expect(page.get_by_role("region", name="Reports").get_by_role("alert")).to_contain_text("does not see")
        expect(page.get_by_role("slider")).to_be_visible()
    finally:
        stack.backups.unlink()
        hidden.rename(stack.backups)

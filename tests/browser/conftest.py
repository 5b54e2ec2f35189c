"""One Airflow, one cluster that can be recovered, one browser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from docs.screenshots import FLAGS, find_browser
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from pgbackup.capture import capture_base, capture_full
from pgbackup.domain.model import Verdict
from pgbackup.verify import verify
from tests.airflow_e2e.rest import LIMIT
from tests.airflow_e2e.stack import BRANCH, Stack, running_stack
from tests.support.archiving import archiving

ZONE = "Asia/Kolkata"  # five and a half hours before UTC: no moment is shown right by accident


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """Airflow; of the cluster ``branch`` there are verified backups and WAL, which the watch has seen."""
    with running_stack() as running:
        site = running.site()
        with archiving(site, running.branch, BRANCH):
            taken = capture_full(site, BRANCH), capture_base(site, BRANCH)
            assert [verify(site, one.id, "local").verdict for one in taken] == [Verdict.VERIFIED] * 2
            for _ in range(3):
                running.branch.execute("UPDATE book SET length = length", "library")
                running.branch.execute("SELECT pg_switch_wal(), pg_sleep(1.1)")
        running.rest.finish(f"{BRANCH}_wal_watch")
        assert site.catalog.prospect(BRANCH) is not None
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    expect.set_options(timeout=LIMIT * 1000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class People:
    """Makes browsers' windows of people who are logged in; what their pages' scripts raise is kept."""

    browser: Browser
    stack: Stack
    contexts: list[BrowserContext] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def page_of(self, user: str, **options: Any) -> Page:
        given = {"viewport": {"width": 1300, "height": 1000}, "locale": "en-GB", "timezone_id": ZONE, **options}
        context = self.browser.new_context(**given)
        self.contexts.append(context)
        context.set_default_timeout(LIMIT * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.stack.url)
        page.fill("input[name=username]", user)
        page.fill("input[name=password]", self.stack.passwords[user])
        page.click("button[type=submit]")
        page.wait_for_url(lambda now: "/auth/" not in now)
        return page

    def looking(self, user: str, cluster: str = BRANCH, **options: Any) -> Page:
        """The page of a user who looks at a cluster."""
        page = self.page_of(user, **options)
        page.goto(f"{self.stack.url}/plugin/recovery?cluster={cluster}")
        return page


@pytest.fixture
def people(browser: Browser, stack: Stack) -> Iterator[People]:
    """Whoever looks in a test; no script may have failed meanwhile."""
    made = People(browser, stack)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [context.close() for context in made.contexts])
        yield made
    assert made.errors == []

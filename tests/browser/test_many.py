"""A cluster with ten thousand backups is shown whole, and drawn with as few shapes as there is room for."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.airflow_e2e.stack import BRANCH, Stack
from tests.browser.conftest import People
from tests.support.crowd import crowd, disperse

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

MANY = 10_000


def test_ten_thousand_backups_are_counted_drawn_and_picked_from(stack: Stack, people: People) -> None:
    with stack.ops.connect("catalog") as connection:
        crowd(connection, BRANCH, MANY)
    try:
        page = people.looking("admin")
        slider = page.get_by_role("slider")
        page.get_by_role("button", name="show everything").click()
        expect(page.get_by_test_id("timeline").get_by_text(re.compile(r"^\d{4}-\d\d-\d\d$")).first).to_be_visible()
        titles = page.get_by_test_id("timeline").locator("[data-state] title")
        expect(titles.filter(has_text=re.compile(r"^\d+ between .* worst: rejected")).first).to_be_attached()
        assert titles.count() < 600, "marks that touch are one"
        expect(page.get_by_role("region", name="Copies").get_by_role("row", name=re.compile("^local"))).to_contain_text(
            re.compile(r"1000[0-9]")
        )
        expect(page.get_by_role("region", name="Newest backups").get_by_role("row")).to_have_count(21)
        slider.press("Home")
        expect(slider).to_have_attribute("aria-valuetext", re.compile("can be recovered"))
    finally:
        with stack.ops.connect("catalog") as connection:
            disperse(connection)

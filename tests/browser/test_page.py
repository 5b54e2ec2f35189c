"""The Recovery page: what it shows is true, who may not start cannot, and a picked moment becomes the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import yaml
from playwright.sync_api import Page, expect

from pgbackup.domain.model import Finding
from pgbackup.overview import look
from pgbackup.restore.holds import put_hold
from tests.airflow_e2e.rest import Rest, Run, eventually
from tests.airflow_e2e.stack import BRANCH, Stack
from tests.browser.conftest import People

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

DAG = f"{BRANCH}_recover_point_in_time"
SCRIPT = "<script>globalThis.pwned = true</script><img src=x onerror='globalThis.pwned = true'>"


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    """End whatever recoveries wait, remove what was recovered."""
    yield
    for run in stack.rest.get(f"/dags/{DAG}/dagRuns", state=["queued", "running"])["dag_runs"]:
        stack.rest.patch(f"/dags/{DAG}/dagRuns/{run['dag_run_id']}", {"state": "failed"})
    for folder in stack.settings.paths.recovered_folder.glob("*"):
        shutil.rmtree(folder)


def pick_last(page: Page) -> str:
    """Pick the last moment that can be recovered, by keyboard; return it as the page says it."""
    slider = page.get_by_role("slider")
    slider.press("End")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("can be recovered"))
    return str(slider.get_attribute("aria-valuetext")).partition(",")[0]


def show_plan(page: Page) -> None:
    page.get_by_role("button", name="Show the plan").click()
    expect(page.get_by_role("dialog")).to_contain_text("The protected server is not touched")


def start(page: Page) -> None:
    page.get_by_role("button", name="Start the recovery").click()


def test_a_picked_moment_is_planned_started_and_approved(stack: Stack, people: People) -> None:
    page = people.looking("admin")
    moment = pick_last(page)
    show_plan(page)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Recover {BRANCH} to {moment}")
    expect(dialog.get_by_role("row", name=re.compile("chain"))).to_contain_text("_base, from local")
    start(page)
    page.wait_for_url(re.compile(f"/dags/{DAG}/runs/page__"))
    run = Run(stack.rest, DAG, page.url.rstrip("/").rpartition("/")[2])
    run.wait_for_question()
    facts = stack.rest.get(run.path)
    assert facts["triggering_user_name"] == "admin"
    assert facts["conf"] == {
        "target": "time",
        "time": moment.replace(" UTC", "Z").replace(" ", "T"),
        "repository": "local",
    }

    colleague = people.page_of("dana")
    colleague.goto(f"{stack.url}/dags/{DAG}/runs/{run.run_id}/tasks/approve/required_actions")
    colleague.fill("input[name=element_cluster_name]", BRANCH)
    colleague.get_by_role("button", name="Approve").click()
    eventually(lambda: run.tasks()["recover"]["state"] == "success", "the recovery")
    assert run.wait() == "success", run.logs()
    assert any(stack.settings.paths.recovered_folder.glob(f"{BRANCH}_*/PG_VERSION"))


def test_the_second_of_two_people_is_shown_the_run_under_way(stack: Stack, people: People) -> None:
    first, second = people.looking("admin"), people.looking("dana")
    for page in (first, second):
        pick_last(page)
        show_plan(page)
    start(first)
    first.wait_for_url(re.compile(f"/dags/{DAG}/runs/page__"))
    start(second)
    notice = second.get_by_role("dialog").get_by_test_id("under-way")
    expect(notice).to_contain_text("admin started")
    assert len(stack.rest.get(f"/dags/{DAG}/dagRuns", state=["queued", "running"])["dag_runs"]) == 1
    notice.get_by_role("link").click()
    second.wait_for_url(first.url)


def test_of_many_who_start_at_once_one_does(stack: Stack) -> None:
    before = stack.rest.get(f"/dags/{DAG}/dagRuns")["total_entries"]
    latest = stack.site().catalog.prospect(BRANCH).windows[-1].latest  # type: ignore[union-attr]

    def start_as(rest: Rest) -> int:
        address = f"{stack.url}/pgbackup/api/clusters/{BRANCH}/recoveries"
        return rest._client.post(address, json={"moment": latest.isoformat()}).status_code

    with ThreadPoolExecutor(max_workers=6) as pool:
        answers = sorted(pool.map(start_as, [stack.rest, stack.colleague] * 3))
    assert answers == [201] + [409] * 5
    assert stack.rest.get(f"/dags/{DAG}/dagRuns")["total_entries"] == before + 1


def test_a_viewer_looks_and_starts_nothing(stack: Stack, people: People) -> None:
    page = people.looking("vera")
    pick_last(page)
    show_plan(page)
    expect(page.get_by_role("button", name="Start the recovery")).to_be_disabled()
    expect(page.get_by_role("dialog")).to_contain_text("you may not start it")
    before = stack.rest.get(f"/dags/{DAG}/dagRuns")["total_entries"]
    answer = page.request.post(
        f"{stack.url}/pgbackup/api/clusters/{BRANCH}/recoveries", data={"moment": "2026-01-31T02:00:00Z"}
    )
    assert (answer.status, "may not start" in answer.text()) == (403, True)
    assert stack.rest.get(f"/dags/{DAG}/dagRuns")["total_entries"] == before


def test_without_a_login_no_route_answers(stack: Stack) -> None:
    own = [f"api/clusters/{BRANCH}{more}" for more in ("", "/runs", "/reports", "/reports/20260101_000000-x")]
    for path in ("static/page.js", "metrics", "api/clusters", "api/dags", *own):
        assert httpx.get(f"{stack.url}/pgbackup/{path}", trust_env=False).status_code == 401, path
    for path in ("plan", "recoveries"):
        address = f"{stack.url}/pgbackup/api/clusters/{BRANCH}/{path}"
        body = {"moment": "2026-01-31T02:00:00Z"}
        assert httpx.post(address, json=body, trust_env=False).status_code == 401, path


def test_who_may_read_no_dag_is_told_nothing(stack: Stack, people: People) -> None:
    stranger = people.page_of("stranger").request
    for cluster in (BRANCH, "no_such_cluster"):
        address = f"{stack.url}/pgbackup/api/clusters/{cluster}"
        assert stranger.get(address).status == 403
        assert stranger.get(f"{address}/runs").status == 403
        assert stranger.post(f"{address}/plan", data={"moment": "2026-01-31T02:00:00Z"}).status == 403
    # Airflow shows such a user no plugin at all: somebody else's page is given the same answers.
    page = people.page_of("vera")
    page.route("**/pgbackup/api/**", lambda route: route.fulfill(response=stranger.get(route.request.url)))
    page.goto(f"{stack.url}/plugin/recovery?cluster={BRANCH}")
    expect(page.get_by_text("There is no cluster that you may see")).to_be_visible()
    expect(page.get_by_test_id("cluster").get_by_role("alert").first).to_contain_text("You have no permission")


def test_names_are_text(stack: Stack, people: People) -> None:
    site = stack.site()
    backup = next(one for one in site.catalog.listed(BRANCH) if one.kind == "base")
    put_hold(site, backup.id, reason=SCRIPT, expires_at=site.clock() + timedelta(days=1))
    site.catalog.looked(look(site, BRANCH))
    site.catalog.saw(BRANCH, (Finding(SCRIPT, False, 0.0, SCRIPT, SCRIPT),), owner="test", now=site.clock())
    page = people.looking("admin")
    expect(page.get_by_role("region", name="Holds")).to_contain_text(SCRIPT)
    expect(page.get_by_role("region", name="What the watch sees")).to_contain_text(SCRIPT)
    assert page.evaluate("globalThis.pwned") is None
    site.catalog.saw(BRANCH, (Finding(SCRIPT, True, 0.0),), owner="test", now=site.clock())


def test_a_page_left_open_over_a_logout_says_so(people: People) -> None:
    page = people.looking("admin")
    pick_last(page)
    page.context.clear_cookies()
    page.get_by_role("button", name="Show the plan").click()
    alert = page.get_by_role("dialog").get_by_role("alert")
    expect(alert).to_contain_text("You are logged out")
    alert.get_by_role("link", name="Log in again").click()
    expect(page.locator("input[name=password]")).to_be_visible()


def test_without_the_catalog_the_page_says_so_and_recovery_still_starts(stack: Stack, people: People) -> None:
    page = people.looking("admin")
    moment = pick_last(page)
    stack.ops.execute("ALTER DATABASE catalog ALLOW_CONNECTIONS false")
    try:
        eventually(lambda: _status(page, f"api/clusters/{BRANCH}") == 503, "an overview that is asked for again")
        assert _status(page, "metrics") == 503, "a scrape that fails, not one that looks well"
        page.reload()
        alert = page.get_by_test_id("cluster").get_by_role("alert").first
        expect(alert).to_contain_text("does not answer")
        expect(alert).to_contain_text("pgbackup recover cluster")
        page.get_by_label("moment", exact=True).fill(moment)
        show_plan(page)
        start(page)
        page.wait_for_url(re.compile(f"/dags/{DAG}/runs/page__"))
    finally:
        stack.ops.execute("ALTER DATABASE catalog ALLOW_CONNECTIONS true")


def _status(page: Page, path: str) -> int:
    return page.request.get(f"{page.url.partition('/plugin')[0]}/pgbackup/{path}").status


def test_the_timeline_is_a_slider_for_keyboards(people: People) -> None:
    page = people.looking("admin")
    slider = page.get_by_role("slider", name="moment to recover, UTC")
    slider.focus()

    def now() -> float:
        return float(slider.get_attribute("aria-valuenow") or "nan")

    page.keyboard.press("End")
    end = now()
    page.keyboard.press("Home")
    assert now() < end
    for key in ("+", "+", "+"):
        page.keyboard.press(key)
    before = now()
    page.keyboard.press("ArrowLeft")
    fine = before - now()
    page.keyboard.press("PageUp")
    assert 0 < fine < now() - before + fine
    expect(page.get_by_label("moment", exact=True)).to_have_value(
        datetime.fromtimestamp(now(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def test_every_moment_names_its_zone(people: People) -> None:
    page = people.looking("admin")
    page.get_by_label("moment", exact=True).fill("2026-01-31 07:30:00+05:30")
    expect(page.get_by_role("region", name="pick a moment")).to_contain_text("2026-01-31 07:30:00 UTC+05:30 in your")
    page.get_by_label("moment", exact=True).press("Enter")
    expect(page.get_by_label("moment", exact=True)).to_have_value("2026-01-31 02:00:00 UTC")
    page.get_by_label("moment", exact=True).fill("yesterday")
    expect(page.get_by_role("button", name="Show the plan")).to_be_disabled()
    expect(page.get_by_test_id("cluster")).to_contain_text("your browser is at UTC+05:30")


def test_a_browser_whose_clock_is_wrong_is_told_whose_counts(people: People, stack: Stack) -> None:
    page = people.page_of("admin")
    page.clock.set_system_time(datetime.now(UTC) + timedelta(hours=3))
    page.goto(f"{stack.url}/plugin/recovery?cluster={BRANCH}")
    expect(page.get_by_role("region", name="pick a moment")).to_contain_text("differs from Airflow's by 3.0 h")
    assert float(page.get_by_role("slider").get_attribute("aria-valuemax") or 0) < datetime.now(UTC).timestamp()


def test_a_moment_that_cannot_be_reached_is_refused_with_what_can(people: People) -> None:
    page = people.looking("admin")
    page.get_by_label("moment", exact=True).fill("2020-01-01 00:00:00 UTC")
    expect(page.get_by_role("region", name="pick a moment")).to_contain_text("outside of what can be recovered")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("can bring back")


def test_it_fits_a_telephone_in_the_dark(people: People) -> None:
    page = people.looking("admin", viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    expect(page.get_by_role("slider")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.classList.contains('dark')")
    slider = page.get_by_role("slider")
    before = slider.get_attribute("aria-valuenow") or ""
    box = slider.bounding_box() or {}
    slider.tap(position={"x": box["width"] * 0.6, "y": box["height"] / 2})
    expect(slider).not_to_have_attribute("aria-valuenow", before)


def test_home_has_a_tile_with_the_worst_first_and_a_removed_cluster_is_gone(stack: Stack, people: People) -> None:
    page = people.page_of("vera")
    lines = page.get_by_test_id("recovery-tile").locator("[data-cluster]")
    expect(lines).to_have_count(3)
    assert lines.last.get_attribute("data-cluster") == BRANCH, "only this one can be recovered"
    tab = page.locator('a[href*="/plugin/recovery-of"]')
    page.goto(f"{stack.url}/dags/library_full_backup")
    expect(tab).to_be_visible()

    protocol = stack.home / "protocol.yaml"
    text = protocol.read_text()
    document = yaml.safe_load(text)
    del document["clusters"]["library"]
    protocol.write_text(yaml.safe_dump(document))
    try:
        page.goto(stack.url)
        expect(lines).to_have_count(2)
        page.goto(f"{stack.url}/dags/library_full_backup")  # as foreign as any other team's
        expect(page.get_by_role("link", name="Runs", exact=True)).to_be_visible()
        expect(tab).to_be_hidden()
        page.goto(f"{stack.url}/plugin/recovery?cluster=library")
        expect(page.get_by_test_id("cluster").get_by_role("alert").first).to_contain_text("no such cluster")
    finally:
        protocol.write_text(text)

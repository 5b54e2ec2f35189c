"""Take the pictures of the documentation from the running demo, in a real browser.

`make demo` first, then `make screenshots`; needs Chromium. Writes docs/images/*.png.
"""

import email
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import policy
from html import escape
from pathlib import Path
from urllib.parse import quote

from demo.__main__ import address
from demo.airflow_settings import ADMIN
from demo.board import console
from demo.control import is_running
from demo.evidence import BACKUP_DAG, VERIFY_DAG
from demo.layout import Layout, load_secrets
from demo.rest import Airflow, AirflowError
from demo.stack import CHECKOUT
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import Page, expect, sync_playwright

IMAGES = CHECKOUT / "docs" / "images"
WIDTH, HEIGHT = 1400, 900
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
GROUP = "prove"  # the mapped task group of the verification
PATIENCE = 60.0
# How the UI remembers what a user last chose: the graph, and which of its groups are open.
CHOICES = f"""
localStorage.setItem("i18nextLng", "en");
localStorage.setItem("default_dag_view", '"graph"');
localStorage.setItem("{VERIFY_DAG}/open-groups", '["{GROUP}"]');
"""
HEADERS = ("From", "To", "Date", "Subject")
ZOOM = 0.88  # of the mail, so that all of it is in the picture
MAIL = """<!doctype html>
<meta charset="utf-8">
<style>
  html {{ zoom: {zoom} }}
  body {{ margin: 0; font: 16px/1.3 sans-serif; color: #1a202c }}
  header {{ padding: 12px 22px; background: #edf2f7; border-bottom: 1px solid #cbd5e0 }}
  th {{ padding-right: 16px; text-align: left; color: #4a5568; font-weight: normal }}
  iframe {{ width: 100%; height: {height}px; border: 0; padding: 0 16px; box-sizing: border-box }}
</style>
<header><table>{headers}</table></header>
<iframe sandbox srcdoc="{body}"></iframe>
"""


class NoPictureError(Exception):
    """There is nothing to take a picture of, or no browser to take it with; the message says what to do."""


def find_browser() -> str:
    """The browser's path; raises NoPictureError."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise NoPictureError(f"no {' or '.join(BROWSERS[:2])} on the PATH; on Debian: apt-get install chromium")


def newest_run(airflow: Airflow, dag_id: str, prefix: str = "") -> str:
    """Id of the newest run that succeeded and begins with ``prefix``; raises NoPictureError."""
    for run_id in reversed(airflow.runs(dag_id, prefix)):
        if airflow.run(dag_id, run_id)["state"] == "success":
            return run_id
    raise NoPictureError(f"{dag_id} has no successful run; make demo makes one")


def newest_verdict(folder: Path) -> str:
    """The newest mail that says verified, as a page with the mail's headers above; raises NoPictureError."""
    for path in sorted(folder.glob("*.eml"), reverse=True):
        mail = email.message_from_bytes(path.read_bytes(), policy=policy.default)
        content = mail.get_body(("html",))
        if content is not None and "verified" in mail["Subject"]:
            rows = (f"<tr><th>{name}</th><td>{escape(str(mail[name]))}</td></tr>" for name in HEADERS)
            body = escape(str(content.get_content()))
            return MAIL.format(headers="".join(rows), body=body, zoom=ZOOM, height=HEIGHT / ZOOM - 140)
    raise NoPictureError(f"no mail in {folder} says verified; make demo makes one")


@contextmanager
def browse(browser: str) -> Iterator[Page]:
    """A page of a new browser, which ends with the context."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        try:
            size = {"width": WIDTH, "height": HEIGHT}
            context = chromium.new_context(viewport=size, locale="en-GB", timezone_id="UTC")  # type: ignore[arg-type]
            context.add_init_script(CHOICES)
            context.set_default_timeout(PATIENCE * 1000)
            expect.set_options(timeout=PATIENCE * 1000)
            yield context.new_page()
        finally:
            chromium.close()


def log_in(page: Page, url: str, password: str) -> None:
    """Log in as the demo's administrator, through the form."""
    page.goto(url)
    page.fill("input[name=username]", ADMIN)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda now: "/auth/" not in now)


def take(page: Page, name: str) -> None:
    """Write the page once it no longer changes; raises NoPictureError when it never rests."""
    page.mouse.move(WIDTH / 2, HEIGHT - 2)
    page.wait_for_load_state("networkidle")
    until = time.monotonic() + PATIENCE
    before, now = b"", page.screenshot()
    while now != before:
        if time.monotonic() > until:
            raise NoPictureError(f"{page.url} still changes after {PATIENCE:.0f} s")
        page.wait_for_timeout(1500)
        before, now = now, page.screenshot()
    (IMAGES / name).write_bytes(now)
    console.print(f"{name:24}{len(now) / 1000:4.0f} kB", markup=False)


def await_words(page: Page) -> None:
    """Wait for the UI's texts, which it loads after its pages."""
    expect(page.get_by_role("link", name="Home").first).to_be_visible()


def show_list(page: Page, url: str) -> None:
    """Open the list of DAGs."""
    page.goto(f"{url}/dags")
    await_words(page)
    for dag_id in (BACKUP_DAG, VERIFY_DAG):
        expect(page.get_by_role("link", name=dag_id)).to_be_visible()


def show_graph(page: Page, url: str, dag_id: str, run_id: str, tasks: tuple[str, ...]) -> None:
    """Open the graph of a run whose ``tasks`` were all a success."""
    page.goto(f"{url}/dags/{dag_id}/runs/{quote(run_id, safe='')}")
    await_words(page)
    for task in tasks:
        expect(page.locator(f'.react-flow__node[data-id="{task}"]')).to_contain_text("success")
    page.get_by_label("Fit View").click()


def show_recovery(page: Page, url: str) -> None:
    """Open the Recovery page."""
    page.goto(f"{url}/plugin/recovery")
    await_words(page)
    expect(page.get_by_role("slider")).to_be_visible()


def close_details(page: Page) -> None:
    """Give the graph the whole width."""
    page.get_by_label("Collapse Details Panel").click()
    page.wait_for_timeout(1000)  # it slides
    page.get_by_label("Fit View").click()


def take_all(layout: Layout) -> None:
    """Take every picture; raises NoPictureError, AirflowError or the browser's error."""
    if not is_running(layout):
        raise NoPictureError("the demo does not run: make demo")
    browser, url, password = find_browser(), address(layout), load_secrets(layout)["ui_admin"]
    airflow = Airflow(url, ADMIN, password)
    backup, proof = newest_run(airflow, BACKUP_DAG), newest_run(airflow, VERIFY_DAG, "verify__")
    verdict = newest_verdict(layout.mail)
    IMAGES.mkdir(exist_ok=True)
    with browse(browser) as page:
        log_in(page, url, password)
        show_list(page, url)
        take(page, "dags.png")
        show_graph(page, url, BACKUP_DAG, backup, ("preflight", "backup", "verify"))
        take(page, "full_backup_run.png")
        show_graph(page, url, VERIFY_DAG, proof, ("choose", f"{GROUP}.files", f"{GROUP}.restore", f"{GROUP}.contents"))
        close_details(page)
        take(page, "verify_run.png")
        show_recovery(page, url)
        take(page, "recovery_page.png")
        page.set_content(verdict)
        take(page, "mail.png")


def main() -> int:
    """The command line; 1 and a message when something failed."""
    try:
        take_all(Layout(CHECKOUT))
    except (NoPictureError, AirflowError, BrowserError, AssertionError) as error:
        what = str(error).partition("Aria snapshot:")[0].strip()  # the page's whole outline follows
        console.print(f"make screenshots failed: {what}", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

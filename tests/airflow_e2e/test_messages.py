"""Reviews, alerts and numbers as people and machines get them, and what happens while one of the ways is down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgbackup.domain.review import HEALTH, ITEMS, Period
from pgbackup.shelf import kept_reports, read_report
from tests.airflow_e2e.rest import eventually
from tests.airflow_e2e.stack import CONTACT, RECIPIENT, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow

CLUSTER = "streamflix"
TEST = f"[{CLUSTER}] test: alerts arrive"


@contextlib.contextmanager
def silent(stack: Stack) -> Iterator[None]:
    """A mail server that takes nothing."""
    password, stack.mailbox.password = stack.mailbox.password, "changed by somebody"
    try:
        yield
    finally:
        stack.mailbox.password = password


@pytest.mark.parametrize("period", list(Period))
def test_a_review_is_mailed_and_kept_whatever_it_says(stack: Stack, period: Period) -> None:
    run = stack.rest.finish(f"{CLUSTER}_{period}_review")
    kept = kept_reports(stack.settings, CLUSTER)[0]
    assert kept.procedure == f"{period}_review"
    holds = "every item holds" in kept.headline
    assert run.tasks()["review"]["state"] == ("success" if holds else "failed"), run.logs()
    assert run.tasks()["review"]["try_number"] == 1, "the answer is no, however often it is asked"
    assert run.state == ("success" if holds else "failed")
    mail = stack.wait_for_mail(run, f"{period} review", "every item holds" if holds else "FAILED")
    report = read_report(stack.settings, CLUSTER, kept.name)
    for word in (*ITEMS[period], HEALTH, "database size", CONTACT["reach"]):
        assert word in mail
        assert word in report


def test_the_test_message_goes_every_way_and_one_that_is_broken_is_red(stack: Stack) -> None:
    def heard() -> tuple[int, int]:
        mails = [mail for mail in stack.mailbox.mails if mail.subject == TEST]
        assert {mail.to for mail in mails} <= {(RECIPIENT,)}
        return len(mails), sum(page["subject"] == TEST for page in stack.pager.pages)

    mails, pages = heard()
    run = stack.rest.finish(f"{CLUSTER}_weekly_review")
    assert run.tasks()["test_mail"]["state"] == "success", run.logs()
    assert heard() == (mails + 1, pages + 1)
    with silent(stack):
        broken = stack.rest.finish(f"{CLUSTER}_weekly_review")
    assert (broken.state, broken.tasks()["test_mail"]["state"]) == ("failed", "failed")
    assert "no alert reaches anybody by that way" in broken.logs()
    eventually(lambda: heard()[1] > pages + 1, "the pager, which is not broken")
    assert heard()[0] == mails + 1


def test_what_a_mail_server_does_not_take_is_sent_later_and_changes_no_colour(stack: Stack) -> None:
    def kept() -> dict[str, str]:
        found = stack.site().catalog.unsent()
        runs = ("unheard-green", "unheard-red")
        return {run: one.channel for run in runs for one in found if run in one.message.html}

    with silent(stack):
        green = stack.rest.finish(f"{CLUSTER}_daily_expiry", run_id="unheard-green")
        red = stack.rest.finish(f"{CLUSTER}_verify_backup", {"nobody reads": "this"}, run_id="unheard-red")
        eventually(lambda: len(kept()) == 2, "both messages, kept")
    assert set(kept().values()) == {"mail"}
    eventually(lambda: any(red.run_id in page["text"] for page in stack.pager.pages), "the alert by another way")
    assert not any(green.run_id in page["text"] for page in stack.pager.pages), "of what is green the mail tells alone"
    assert (green.state, red.state) == ("success", "failed"), green.logs()

    stack.rest.finish(f"{CLUSTER}_wal_watch")
    eventually(lambda: not kept(), "nothing that is kept any more")
    for run in (green, red):
        (text,) = [one.text for one in stack.mailbox.mails if run.run_id in one.text]
        assert "Kept since" in text
    assert (green.state, red.state) == ("success", "failed")


def test_the_watch_s_numbers_are_airflow_s_gauges(stack: Stack) -> None:
    run = stack.rest.finish(f"{CLUSTER}_wal_watch")
    samples = stack.site().catalog.gauges(CLUSTER)
    assert {dict(one.labels)["cluster"] for one in samples} == {CLUSTER}
    wanted = {one.name.replace("_", ".", 1) for one in samples}

    def seen() -> dict[str, float]:
        return {name: value for name, value in stack.gauges.values.items() if f",cluster={CLUSTER}" in name}

    eventually(lambda: {name.partition(",")[0] for name in seen()} >= wanted, "every gauge")
    assert seen()[f"pgbackup.rpo_objective_seconds,cluster={CLUSTER}"] == 3600
    judged = [name for name in seen() if name.startswith("pgbackup.finding_ok,")]
    assert len(judged) >= sum(one.name == "pgbackup_finding_ok" for one in samples)
    assert "Invalid stat name" not in run.logs()


def test_prometheus_reads_with_a_token_what_its_user_may_see(stack: Stack) -> None:
    address = f"{stack.url}/pgbackup/metrics"
    assert httpx.get(address, trust_env=False).status_code == 401

    def scraped(user: str) -> str:
        login = {"username": user, "password": stack.passwords[user]}
        token = httpx.post(f"{stack.url}/auth/token", json=login, trust_env=False).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(address, headers=headers, trust_env=False, timeout=60).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return answer.text

    stack.rest.finish(f"{CLUSTER}_wal_watch")
    families = {one.name: one for one in text_string_to_metric_families(scraped("vera"))}
    objective = families["pgbackup_rpo_objective_seconds"]
    assert (objective.type, {one.labels["cluster"]: one.value for one in objective.samples}[CLUSTER]) == ("gauge", 3600)
    assert scraped("stranger") == ""

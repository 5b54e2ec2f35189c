"""The catalog: what it remembers, who may hold a cluster, and how its schema grows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.support.manifests import MOMENT, manifest
from tests.support.source import ROOT, Source

from pgbackup.catalog import PostgresCatalog
from pgbackup.catalog.session import migrations
from pgbackup.domain.drill import Drill, DrillStep, Scenario
from pgbackup.domain.errors import BusyError, PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.findings import BYTES
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.metrics import sample
from pgbackup.domain.model import (
    Backup,
    CopyState,
    Finding,
    Holding,
    Kind,
    Measurement,
    Message,
    State,
    Verdict,
    Verification,
    WalCopy,
    Watched,
)
from pgbackup.domain.prospect import Prospect, Reachable

MINUTE = timedelta(minutes=1)
DONE = MOMENT + 10 * MINUTE


@pytest.fixture
def catalog(catalog_dsn: str) -> PostgresCatalog:
    return PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True))


def begin(catalog: PostgresCatalog, document: Manifest, owner: str = "o") -> str:
    catalog.begin(document.id, cluster=document.cluster, kind=document.kind, owner=owner, now=MOMENT)
    return document.id


def capture(catalog: PostgresCatalog, document: Manifest | None = None) -> str:
    document = document or manifest()
    begin(catalog, document)
    catalog.captured(document, repository="local", now=DONE)
    return document.id


def conclude(catalog: PostgresCatalog, backup_id: str, verdict: Verdict | None, repository: str = "local") -> int:
    attempt = catalog.begin_verification(backup_id, repository=repository, owner="o", now=MOMENT)
    catalog.conclude(backup_id, repository=repository, attempt=attempt, verdict=verdict, reason="r", now=DONE)
    return attempt


def known(catalog: PostgresCatalog, backup_id: str) -> Backup:
    backup = catalog.backup(backup_id)
    assert backup is not None
    return backup


# ---------------------------------------------------------------------------------------------------- what happened


def test_a_capture_goes_from_running_to_captured(catalog: PostgresCatalog) -> None:
    document = manifest()
    backup_id = begin(catalog, document, owner="dag/run")
    running = known(catalog, backup_id)
    assert (running.state, running.owner, running.backup_time, running.copies) == (State.RUNNING, "dag/run", None, ())
    catalog.captured(document, repository="local", now=DONE)
    captured = known(catalog, backup_id)
    assert (captured.state, captured.bytes, captured.backup_time) == (State.CAPTURED, 100, document.backup_time)
    assert captured.started_at == MOMENT
    assert [(copy.repository, copy.state, copy.stored_at) for copy in captured.copies] == [
        ("local", CopyState.STORED, DONE)
    ]


def test_the_protocol_s_query_works(catalog: PostgresCatalog, catalog_dsn: str) -> None:
    begin(catalog, manifest(moment=MOMENT + 60 * MINUTE))
    capture(catalog)
    capture(catalog, manifest(moment=MOMENT - 60 * MINUTE))
    with psycopg.connect(catalog_dsn) as connection:
        row = connection.execute("SELECT MAX(backup_time) FROM backup_log").fetchone()
    assert row == (manifest().backup_time,)


def test_the_manifest_is_kept_whole(catalog: PostgresCatalog, catalog_dsn: str) -> None:
    backup_id = capture(catalog)
    with psycopg.connect(catalog_dsn) as connection:
        row = connection.execute("SELECT manifest FROM backup_log WHERE id = %s", (backup_id,)).fetchone()
    assert row is not None
    assert Manifest.model_validate(row[0]) == manifest()


def test_only_what_runs_can_fail(catalog: PostgresCatalog) -> None:
    backup_id = begin(catalog, manifest())
    catalog.failed(backup_id, error="the server went away", now=DONE)
    failed = known(catalog, backup_id)
    assert (failed.state, failed.error, failed.finished_at) == (State.FAILED, "the server went away", DONE)
    other = capture(catalog, manifest(moment=MOMENT + MINUTE))
    catalog.failed(other, error="too late", now=DONE)
    assert (known(catalog, other).state, known(catalog, other).error) == (State.CAPTURED, None)


def test_what_failed_can_turn_out_to_be_whole(catalog: PostgresCatalog) -> None:
    document = manifest()
    backup_id = begin(catalog, document)
    catalog.failed(backup_id, error="killed", now=DONE)
    catalog.captured(document, repository="local", now=DONE)
    assert (known(catalog, backup_id).state, known(catalog, backup_id).error) == (State.CAPTURED, None)


def test_an_id_is_used_once(catalog: PostgresCatalog) -> None:
    begin(catalog, manifest())
    with pytest.raises(psycopg.errors.UniqueViolation):
        begin(catalog, manifest())


def test_backups_come_newest_first_by_cluster_and_state(catalog: PostgresCatalog) -> None:
    first, second = capture(catalog), capture(catalog, manifest(moment=MOMENT + MINUTE))
    other = capture(catalog, manifest("other"))
    conclude(catalog, first, Verdict.VERIFIED)
    assert {backup.id for backup in catalog.backups()} == {first, second, other}
    assert {backup.id for backup in catalog.backups("streamflix")} == {first, second}
    verified = frozenset({State.VERIFIED})
    assert [backup.id for backup in catalog.backups(states=verified)] == [first]
    assert catalog.backups("other", states=verified) == ()
    assert catalog.backups("none") == catalog.backups(states=frozenset()) == ()
    assert catalog.backup("none") is None


# ---------------------------------------------------------------------------------------------------- verifications


@pytest.mark.parametrize(
    ("verdict", "state", "copy"),
    [
        (Verdict.VERIFIED, State.VERIFIED, CopyState.VERIFIED),
        (Verdict.REJECTED, State.REJECTED, CopyState.DAMAGED),
        (None, State.CAPTURED, CopyState.STORED),
    ],
)
def test_a_verdict_moves_backup_and_copy(
    catalog: PostgresCatalog, verdict: Verdict | None, state: State, copy: CopyState
) -> None:
    backup_id = capture(catalog)
    conclude(catalog, backup_id, verdict)
    backup = known(catalog, backup_id)
    assert (backup.state, backup.copies[0].state) == (state, copy)
    assert backup.copies[0].verified_at == (DONE if verdict is Verdict.VERIFIED else None)


def test_the_last_verdict_counts(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    for verdict, state in [
        (Verdict.VERIFIED, State.VERIFIED),
        (Verdict.REJECTED, State.REJECTED),
        (None, State.REJECTED),
        (Verdict.VERIFIED, State.VERIFIED),
    ]:
        conclude(catalog, backup_id, verdict)
        assert known(catalog, backup_id).state is state


def test_one_damaged_copy_does_not_reject_what_another_proves(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    catalog.captured(manifest(), repository="eu", now=DONE)
    conclude(catalog, backup_id, Verdict.VERIFIED)
    conclude(catalog, backup_id, Verdict.REJECTED, repository="eu")
    backup = known(catalog, backup_id)
    assert backup.state is State.VERIFIED
    assert {copy.repository: copy.state for copy in backup.copies} == {
        "eu": CopyState.DAMAGED,
        "local": CopyState.VERIFIED,
    }


def test_attempts_are_numbered_for_each_copy(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    catalog.captured(manifest(), repository="eu", now=DONE)
    assert [conclude(catalog, backup_id, Verdict.VERIFIED) for _ in range(3)] == [1, 2, 3]
    assert conclude(catalog, backup_id, Verdict.VERIFIED, repository="eu") == 1


def test_an_owner_takes_up_what_it_did_not_finish(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)

    def open_as(owner: str) -> int:
        return catalog.begin_verification(backup_id, repository="local", owner=owner, now=MOMENT)

    assert [open_as("a"), open_as("a"), open_as("b"), open_as("a")] == [1, 1, 2, 1]
    catalog.conclude(backup_id, repository="local", attempt=1, verdict=None, reason="no space", now=DONE)
    assert open_as("a") == 1
    reopened = catalog.verification(backup_id, repository="local", attempt=1)
    assert reopened is not None
    assert (reopened.finished_at, reopened.reason) == (None, "")
    catalog.conclude(backup_id, repository="local", attempt=1, verdict=Verdict.VERIFIED, reason="", now=DONE)
    assert open_as("a") == 3


def test_attempts_opened_at_once_have_numbers_of_their_own(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    numbers: list[int] = []

    def open_one(owner: str) -> None:
        numbers.append(catalog.begin_verification(backup_id, repository="local", owner=owner, now=MOMENT))

    threads = [threading.Thread(target=open_one, args=(f"owner {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_an_unknown_backup_cannot_be_verified(catalog: PostgresCatalog) -> None:
    with pytest.raises(RefusedError, match="no backup"):
        catalog.begin_verification("streamflix_20260101_000000_full", repository="local", owner="o", now=MOMENT)


def test_findings_are_kept_by_step_in_their_order(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    attempt = catalog.begin_verification(backup_id, repository="local", owner="o", now=MOMENT)

    def find(step: str, *findings: Finding) -> None:
        catalog.found(backup_id, repository="local", attempt=attempt, step=step, findings=findings)

    first, wrong = Finding("z", True, 0.5, "d", ""), Finding("a", False, 1.0, "d'é\n", "h")
    find("files", wrong)
    find("files", first, wrong)
    find("restore", Finding("m", True, 0))
    find("contents")
    found = catalog.verification(backup_id, repository="local")
    assert found is not None
    assert found.findings == (first, wrong, Finding("m", True, 0))
    assert catalog.verifications(backup_id) == (found,)
    assert catalog.verification(backup_id, repository="eu") is None


def test_what_one_run_did_is_found_by_its_owner(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    conclude(catalog, backup_id, Verdict.VERIFIED)
    assert [backup.id for backup in catalog.backups_of("o")] == [backup_id]
    assert [verification.backup_id for verification in catalog.verifications_of("o")] == [backup_id]
    assert catalog.backups_of("x") == catalog.verifications_of("x") == ()


# --------------------------------------------------------------------------------------------------------- watched


def saw(catalog: PostgresCatalog, *findings: Finding, minutes: int = 0, cluster: str = "streamflix") -> None:
    now = MOMENT + minutes * MINUTE
    catalog.saw(cluster, findings, owner=f"run {minutes}", now=now)


def test_what_changed_is_news_until_it_was_told(catalog: PostgresCatalog) -> None:
    def news() -> dict[str, bool]:
        return {one.name: one.ok for one in catalog.watched("streamflix") if one.is_news}

    good, bad = Finding("a", True, 1.0, "d"), Finding("a", False, 1.0, "d'\u00e9", "h")
    saw(catalog, good, Finding("b", True, 1.0))
    assert news() == {}
    saw(catalog, bad, minutes=5)
    assert news() == {"a": False}
    saw(catalog, bad, minutes=10)
    assert news() == {"a": False}, "the mail did not go out: it is due still"
    catalog.told(catalog.watched("streamflix"), cluster="streamflix")
    saw(catalog, bad, minutes=15)
    assert news() == {}
    saw(catalog, good, minutes=20)
    assert news() == {"a": True}
    saw(catalog, bad, minutes=25)
    assert news() == {}, "it failed, held and failed between two mails: people know"


def test_what_is_watched_says_since_when_and_who_saw_it(catalog: PostgresCatalog) -> None:
    for minutes, ok in ((0, True), (5, False), (10, False)):
        saw(catalog, Finding("z", ok, 0.0, f"detail {minutes}", "h"), Finding("a", True, 0.0), minutes=minutes)
    saw(catalog, Finding("a", True, 0.0), minutes=15)
    first, second = catalog.watched("streamflix")
    assert (first.name, first.ok, first.detail, first.owner) == ("z", False, "detail 10", "run 10")
    assert (first.since, first.seen_at) == (MOMENT + 5 * MINUTE, MOMENT + 10 * MINUTE)
    assert (second.name, second.since, second.seen_at) == ("a", MOMENT, MOMENT + 15 * MINUTE)


def test_clusters_are_watched_apart(catalog: PostgresCatalog) -> None:
    saw(catalog, Finding("a", False, 0.0))
    saw(catalog, Finding("a", False, 0.0), cluster="other")
    catalog.told(catalog.watched("other"), cluster="other")
    assert [one.is_news for one in catalog.watched("streamflix")] == [True]
    assert [one.is_news for one in catalog.watched("other")] == [False]
    assert catalog.watched("none") == ()


def test_what_comes_and_goes_has_to_hold_longer_each_time(catalog: PostgresCatalog) -> None:
    def look(minutes: int, *, ok: bool) -> Watched:
        saw(catalog, Finding("a", ok, 0.0), minutes=minutes)
        (one,) = catalog.watched("streamflix")
        if one.is_news:
            catalog.told([one], cluster="streamflix")
        return one

    news = [look(minutes, ok=bool(minutes // 5 % 2)).is_news for minutes in range(0, 240, 5)]
    assert news[:4] == [True, True, True, False], "failed, held, failed again; then it has to hold"
    assert not any(news[4:]), "every five minutes another state, and no more messages"
    assert catalog.watched("streamflix")[0].relapses == 23
    assert [look(minutes, ok=True).is_news for minutes in (300, 590, 600)] == [False, False, True]
    assert look(600 + 24 * 60, ok=False).relapses == 0, "a day later it is a new one"


def test_what_is_not_watched_any_more_is_forgotten(catalog: PostgresCatalog) -> None:
    saw(catalog, Finding("a", False, 0.0), Finding("b", True, 0.0))
    catalog.forget("streamflix", ["a"])
    assert [one.name for one in catalog.watched("streamflix")] == ["b"]


# ---------------------------------------------------------------------------------------------------------- unsent


def test_a_kept_message_goes_once_and_stays_when_it_cannot(catalog: PostgresCatalog) -> None:
    messages = [Message("streamflix", f"subject {number}", "<p>\u00e9 'x'</p>", "http://a") for number in range(2)]
    for message in messages:
        catalog.keep(message, channel="mail", error="OSError: refused", now=MOMENT)
    first, second = catalog.unsent()
    assert [one.message for one in (first, second)] == messages
    assert (first.channel, first.kept_at, first.error) == ("mail", MOMENT, "OSError: refused")
    with pytest.raises(ConnectionRefusedError), catalog.sending(first.number):
        raise ConnectionRefusedError
    with catalog.sending(first.number) as ours, catalog.sending(first.number) as another:
        assert (ours, another) == (True, False)
    assert [one.number for one in catalog.unsent()] == [second.number]
    with catalog.sending(first.number) as gone:
        assert not gone


def test_what_the_watch_measured_replaces_what_it_measured_before(catalog: PostgresCatalog) -> None:
    samples = (sample("pgbackup_rpo_seconds", 1.5, cluster="streamflix"), sample("pgbackup_wal_gaps", 0, cluster='a"'))
    catalog.gauged("streamflix", (samples[0],), now=MOMENT)
    catalog.gauged("streamflix", samples, now=MOMENT)
    assert catalog.gauges("streamflix") == samples
    assert catalog.gauges("other") == ()


# -------------------------------------------------------------------------------------------------------- measured


def test_what_was_measured_comes_back_newest_first_and_by_repository(catalog: PostgresCatalog) -> None:
    first, second = Measurement("fetch", 100, 0.5, MOMENT), Measurement("replay", 2**40, 3600.0, MOMENT + MINUTE)
    catalog.measured("streamflix", "local", second)
    catalog.measured("streamflix", "local", first)
    catalog.measured("streamflix", "region", first)
    assert catalog.measurements("streamflix", "local") == (second, first)
    assert catalog.measurements("streamflix", "region") == (first,)
    assert catalog.measurements("other", "local") == ()


def test_only_the_last_hundred_measurements_of_a_step_are_kept(catalog: PostgresCatalog) -> None:
    catalog.measured("streamflix", "local", Measurement("fetch", 7, 1.0, MOMENT))
    for minute in range(103):
        catalog.measured("streamflix", "local", Measurement("replay", 1, 1.0, MOMENT + minute * MINUTE))
    kept = catalog.measurements("streamflix", "local")
    assert [one.step for one in kept].count("fetch") == 1
    assert [one.at for one in kept if one.step == "replay"] == [MOMENT + n * MINUTE for n in range(102, 2, -1)]


# --------------------------------------------------------------------------------------------------------- rebuilt


def test_a_rebuilt_catalog_gives_the_same_answers(catalog: PostgresCatalog) -> None:
    document = manifest()
    attested = [
        Verification(
            document.id, "local", 1, MOMENT, DONE, Verdict.REJECTED, (Finding("a", False, 1, "d", "h"),), "a: d"
        ),
        Verification(document.id, "local", 2, DONE, DONE, Verdict.VERIFIED, (Finding("a", True, 1),)),
    ]
    for _ in range(2):
        catalog.register(document, repository="local", copy=CopyState.STORED, verifications=attested, now=DONE)
        backup = known(catalog, document.id)
        assert (backup.state, backup.kind, backup.backup_time) == (State.VERIFIED, Kind.FULL, document.backup_time)
        assert [copy.state for copy in backup.copies] == [CopyState.VERIFIED]
        assert catalog.verifications(document.id) == tuple(reversed(attested))


def test_registering_changes_nothing_that_is_known(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)
    conclude(catalog, backup_id, Verdict.REJECTED)
    before = known(catalog, backup_id)
    catalog.register(manifest(), repository="local", copy=CopyState.STORED, verifications=(), now=DONE + MINUTE)
    assert known(catalog, backup_id) == before


# ------------------------------------------------------------------------------------------------------- exclusive

HOLD = """
import sys, psycopg
from pgbackup.catalog import PostgresCatalog
catalog = PostgresCatalog(lambda: psycopg.connect(sys.argv[1], autocommit=True))
with catalog.exclusive("streamflix", purpose="backup"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(catalog_dsn: str) -> Callable[[], subprocess.Popen[bytes]]:
    def hold() -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
        argv = [sys.executable, "-c", HOLD, catalog_dsn]
        process = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        return process

    return hold


@pytest.mark.parametrize("how", ["end", "kill"])
def test_one_process_holds_a_cluster_and_its_end_frees_it(
    catalog: PostgresCatalog, holder: Callable[[], subprocess.Popen[bytes]], how: str
) -> None:
    with holder() as process:
        with (
            pytest.raises(BusyError, match="another one"),
            catalog.exclusive("streamflix", purpose="backup"),
        ):
            raise AssertionError("both hold it")
        with catalog.exclusive("other", purpose="backup"):
            pass
        if how == "kill":
            process.send_signal(signal.SIGKILL)
        else:
            assert process.stdin is not None
            process.stdin.close()
        process.wait()
        until_free(catalog)


def until_free(catalog: PostgresCatalog) -> None:
    """The server notices a killed client a moment later: try again until the test's own time limit."""
    while True:
        try:
            with catalog.exclusive("streamflix", purpose="backup"):
                return
        except BusyError:
            continue


def test_a_cluster_is_free_again_after_an_error(catalog: PostgresCatalog) -> None:
    with pytest.raises(KeyboardInterrupt), catalog.exclusive("streamflix", purpose="backup"):
        raise KeyboardInterrupt
    with catalog.exclusive("streamflix", purpose="backup"):
        pass


# ---------------------------------------------------------------------------------------------------------- drills


def drilled(scenario: Scenario, *, minutes: int = 0, cluster: str = "streamflix", ok: bool = True) -> Drill:
    return Drill(
        cluster=cluster,
        scenario=scenario,
        subject="what came back",
        started_at=MOMENT + minutes * MINUTE,
        finished_at=DONE + minutes * MINUTE,
        rpo_seconds=1.5 if scenario is Scenario.POINT_IN_TIME else None,
        steps=(DrillStep("fetch", 1.25, 1.0), DrillStep("replay", 2.0, 4.0)),
        findings=(Finding("item", ok, 0.5, "detail", "hint"),),
        owner="dag/run",
    )


def test_drills_come_back_newest_first_each_cluster_s_own(catalog: PostgresCatalog) -> None:
    first, second = drilled(Scenario.FULL), drilled(Scenario.POINT_IN_TIME, minutes=1, ok=False)
    for one in (second, first, drilled(Scenario.TABLE, cluster="library")):
        catalog.drilled(one)
    assert catalog.drills("streamflix") == (second, first)
    assert catalog.drills("unknown") == ()


def test_a_drill_that_is_known_stays_as_it_is(catalog: PostgresCatalog) -> None:
    catalog.drilled(drilled(Scenario.TABLE))
    catalog.drilled(drilled(Scenario.TABLE, ok=False))
    assert catalog.drills("streamflix") == (drilled(Scenario.TABLE),)


def test_what_auditors_ask_of_drills_is_in_columns(catalog: PostgresCatalog, catalog_dsn: str) -> None:
    catalog.drilled(drilled(Scenario.POINT_IN_TIME, ok=False))
    with psycopg.connect(catalog_dsn) as connection:
        row = connection.execute("SELECT ok, rto_seconds, rpo_seconds, predicted_seconds FROM drill").fetchone()
    assert row == (False, 3.25, 1.5, 5.0)


# ----------------------------------------------------------------------------------------------------- long lists


def test_a_long_list_says_what_each_backup_says_by_itself(catalog: PostgresCatalog) -> None:
    verified = capture(catalog)
    conclude(catalog, verified, Verdict.VERIFIED)
    catalog.copied(verified, repository="eu", now=DONE)
    running = begin(catalog, manifest(moment=MOMENT + 60 * MINUTE))
    gone = capture(catalog, manifest(moment=MOMENT - 60 * MINUTE))
    catalog.expire(gone, repository="local")
    first, second = catalog.listed("streamflix")
    assert (first.id, first.state, first.copies) == (running, State.RUNNING, {})
    one = known(catalog, verified)
    assert (second.id, second.kind, second.state, second.moment) == (one.id, one.kind, one.state, one.backup_time)
    assert second.copies == {copy.repository: copy.state for copy in one.copies}
    assert (second.bytes, second.seconds) == (100, 180.0)
    assert catalog.listed("library") == ()


def test_what_each_repository_holds_is_summed_up(catalog: PostgresCatalog) -> None:
    ids = [capture(catalog, manifest(moment=MOMENT + number * MINUTE)) for number in range(3)]
    catalog.copied(ids[0], repository="eu", now=DONE)
    conclude(catalog, ids[0], Verdict.VERIFIED)
    conclude(catalog, ids[1], Verdict.REJECTED)
    catalog.expire(ids[2], repository="local")
    assert catalog.holdings("streamflix") == (
        Holding("eu", Kind.FULL, 1, 0, 0, 100, None),
        Holding("local", Kind.FULL, 2, 1, 1, 200, DONE),
    )


def test_weeks_begin_on_monday_in_utc(catalog: PostgresCatalog, catalog_dsn: str) -> None:
    sunday = datetime(2026, 2, 1, 23, 59, tzinfo=UTC)
    for moment in (sunday, sunday + MINUTE, sunday + 2 * MINUTE):
        capture(catalog, manifest(moment=moment, started_at=moment))
    with psycopg.connect(catalog_dsn) as connection:
        connection.execute("UPDATE backup_log SET started_at = backup_time - interval '1 min'")
    found = [(one.week.day, one.bytes) for one in catalog.captured_weekly("streamflix", since=MOMENT)]
    assert found == [(26, 100), (2, 200)]


def test_what_can_be_recovered_is_as_it_was_last_seen(catalog: PostgresCatalog) -> None:
    assert catalog.prospect("streamflix") is None
    window = Reachable(1, MOMENT, DONE)
    seen = Prospect("streamflix", MOMENT, (window,), (), (), (), 7, 1.5, "")
    for one in (seen, replace(seen, seen_at=DONE, windows=())):
        catalog.looked(one)
        assert catalog.prospect("streamflix") == one
    assert catalog.prospect("library") is None


# ---------------------------------------------------------------------------------------------------------- schema


def test_migrations_are_numbered_without_gaps() -> None:
    assert sorted(migrations()) == list(range(1, len(migrations()) + 1))


def test_migrating_again_changes_nothing(catalog: PostgresCatalog) -> None:
    assert len(catalog.migrate()) == len(migrations())
    assert catalog.migrate() == ()


def test_catalogs_that_open_at_once_migrate_once(catalog_dsn: str) -> None:
    applied: list[tuple[str, ...]] = []

    def migrate() -> None:
        applied.append(PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True)).migrate())

    threads = [threading.Thread(target=migrate) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, applied)) == [0] * 5 + [len(migrations())]


@pytest.mark.parametrize("version", list(migrations()))
def test_what_an_earlier_version_wrote_is_read(catalog: PostgresCatalog, catalog_dsn: str, version: int) -> None:
    """What today's code wrote is put into the tables of an earlier version, as far as that one had its columns."""
    fill(catalog)
    wrote = answers(catalog)[:version]
    with psycopg.connect(catalog_dsn) as connection:
        connection.execute("CREATE SCHEMA earlier; SET search_path = earlier; SET session_replication_role = replica")
        connection.execute("CREATE TABLE schema_version (LIKE public.schema_version INCLUDING ALL)")
        for number, (_, text) in sorted(migrations().items())[:version]:
            connection.execute(text)
            connection.execute("INSERT INTO schema_version (version) VALUES (%s)", (number,))
        columns = connection.execute(
            "SELECT table_name, string_agg(quote_ident(column_name), ', ') FROM information_schema.columns"
            " WHERE table_schema = 'earlier' AND table_name <> 'schema_version' GROUP BY 1"
        ).fetchall()
        for table, names in columns:
            copied = sql.SQL("INSERT INTO {t} ({n}) OVERRIDING SYSTEM VALUE SELECT {n} FROM public.{t}")
            connection.execute(copied.format(t=sql.Identifier(table), n=sql.SQL(names)))
        connection.execute("DROP SCHEMA public CASCADE; ALTER SCHEMA earlier RENAME TO public")
    later = PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True))
    assert len(later.migrate()) == len(migrations()) - version
    assert answers(later)[:version] == wrote
    assert all(wrote)


def fill(catalog: PostgresCatalog) -> None:
    """Write something of everything, in the order of the migrations."""
    backup_id = capture(catalog)
    attempt = catalog.begin_verification(backup_id, repository="local", owner="o", now=MOMENT)
    catalog.found(backup_id, repository="local", attempt=attempt, step="s", findings=(Finding("f", True, 0.5, "d"),))
    catalog.conclude(backup_id, repository="local", attempt=attempt, verdict=Verdict.VERIFIED, reason="", now=DONE)
    catalog.saw("streamflix", (Finding("archive", False, 0.0, "d", "h"),), owner="o", now=MOMENT)
    catalog.measured("streamflix", "local", Measurement("fetch", 10, 1.5, MOMENT))
    catalog.drilled(drilled(Scenario.FULL))
    catalog.wal_copied("streamflix", "eu", whole_at=MOMENT, missing=0, error="", now=DONE)
    catalog.looked(Prospect("streamflix", MOMENT, (Reachable(1, MOMENT, DONE),), (), (), (), 7, 1.5, ""))
    catalog.gauged("streamflix", (sample("pgbackup_rpo_seconds", 1.0, cluster="streamflix"),), now=MOMENT)


def answers(catalog: PostgresCatalog) -> list[object]:
    """What each version can answer more than the one before."""
    backups = catalog.backups()
    return [
        [*backups, *(found for one in backups for found in catalog.verifications(one.id))],
        catalog.watched("streamflix"),
        catalog.measurements("streamflix", "local"),
        catalog.drills("streamflix"),
        catalog.wal_copies("streamflix"),
        catalog.prospect("streamflix"),
        catalog.gauges("streamflix"),
    ]


def test_a_catalog_of_a_newer_version_is_refused(catalog: PostgresCatalog, catalog_dsn: str) -> None:
    catalog.migrate()
    with psycopg.connect(catalog_dsn) as connection:
        connection.execute("INSERT INTO schema_version (version) VALUES (999)")
    reopened = PostgresCatalog(lambda: psycopg.connect(catalog_dsn, autocommit=True))
    with pytest.raises(RefusedError, match="version 999") as caught:
        reopened.backups()
    assert caught.value.hint


# ---------------------------------------------------------------------------------------------------------- faults


def test_a_catalog_that_does_not_answer_says_so(tmp_path: Path) -> None:
    catalog = PostgresCatalog(lambda: psycopg.connect(host=str(tmp_path), dbname="c", autocommit=True))
    with pytest.raises(UnavailableError, match="catalog does not answer"):
        catalog.backups()
    with pytest.raises(UnavailableError, match="catalog does not answer"), catalog.exclusive("c", purpose="backup"):
        pass


@pytest.mark.parametrize(
    ("user", "kind", "message"),
    [("app", UnfitError, "no right to use the catalog"), ("readonly", UnavailableError, "the catalog is read-only")],
)
def test_a_catalog_that_cannot_be_written_says_so(
    server: Source, catalog_dsn: str, user: str, kind: type[PgBackupError], message: str
) -> None:
    dsn = catalog_dsn.replace("user=postgres", f"user={user}")
    with pytest.raises(kind, match=message) as caught:
        PostgresCatalog(lambda: psycopg.connect(dsn, autocommit=True)).backups()
    assert caught.value.hint


# ------------------------------------------------------------------------------------------------------------ copies


def test_a_copy_is_recorded_once_and_again_when_it_was_damaged(catalog: PostgresCatalog) -> None:
    backup_id = capture(catalog)

    def copied(after: int) -> tuple[CopyState, datetime, datetime | None]:
        catalog.copied(backup_id, repository="eu", now=DONE + after * MINUTE)
        (copy,) = [copy for copy in catalog.copies(backup_id) if copy.repository == "eu"]
        return copy.state, copy.stored_at, copy.verified_at

    assert copied(1) == copied(2) == (CopyState.STORED, DONE + MINUTE, None)
    conclude(catalog, backup_id, Verdict.VERIFIED, "eu")
    assert copied(3) == (CopyState.VERIFIED, DONE + MINUTE, DONE)
    conclude(catalog, backup_id, Verdict.REJECTED, "eu")
    assert copied(4) == (CopyState.STORED, DONE + 4 * MINUTE, None)


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ({"eu": Verdict.REJECTED}, State.CAPTURED),
        ({"eu": Verdict.REJECTED, "local": Verdict.REJECTED}, State.REJECTED),
        ({"eu": Verdict.REJECTED, "local": Verdict.VERIFIED}, State.VERIFIED),
        ({"eu": Verdict.VERIFIED, "local": Verdict.REJECTED}, State.VERIFIED),
        ({"local": Verdict.REJECTED}, State.REJECTED),
    ],
)
def test_a_backup_is_rejected_when_its_original_is(
    catalog: PostgresCatalog, verdicts: dict[str, Verdict], state: State
) -> None:
    backup_id = capture(catalog)
    catalog.copied(backup_id, repository="eu", now=DONE)
    for repository, verdict in verdicts.items():
        catalog.begin_verification(backup_id, repository=repository, owner="o", now=MOMENT)
        whole = (Finding(BYTES, True, 1),)
        catalog.found(backup_id, repository=repository, attempt=1, step="files", findings=whole)
        conclude(catalog, backup_id, verdict, repository)  # of the same owner: it is the same attempt
    assert known(catalog, backup_id).state is state


def test_a_copy_that_lost_its_bytes_rejects_none_that_nobody_judged(catalog: PostgresCatalog) -> None:
    """A disk that is gone says nothing of what was copied from it."""
    backup_id = capture(catalog)
    catalog.copied(backup_id, repository="eu", now=DONE)
    conclude(catalog, backup_id, Verdict.VERIFIED)
    conclude(catalog, backup_id, Verdict.REJECTED)
    assert known(catalog, backup_id).state is State.CAPTURED
    conclude(catalog, backup_id, Verdict.REJECTED, "eu")
    assert known(catalog, backup_id).state is State.REJECTED


def test_how_far_the_wal_of_a_repository_is_never_goes_back_for_an_error(catalog: PostgresCatalog) -> None:
    assert catalog.wal_copies("streamflix") == ()
    catalog.wal_copied("streamflix", "eu", whole_at=None, missing=7, error="down", now=MOMENT)
    assert catalog.wal_copies("streamflix") == (WalCopy("eu", None, 7, "down", MOMENT),)
    catalog.wal_copied("streamflix", "eu", whole_at=MOMENT, missing=0, error="", now=DONE)
    catalog.wal_copied("streamflix", "us", whole_at=DONE, missing=0, error="", now=DONE)
    catalog.wal_copied("streamflix", "eu", whole_at=None, missing=3, error="down", now=DONE + MINUTE)
    assert catalog.wal_copies("streamflix") == (
        WalCopy("eu", MOMENT, 3, "down", DONE + MINUTE),
        WalCopy("us", DONE, 0, "", DONE),
    )
    assert catalog.wal_copies("other") == ()

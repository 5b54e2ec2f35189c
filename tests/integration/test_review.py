"""Reviews of a real repository, catalog and server: each item of the lists holds when it should, or says why not."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.support import aged
from tests.support.site import with_settings
from tests.support.source import Source

from pgbackup.catalog import PostgresCatalog
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import Finding, Kind, Unsent, Verdict
from pgbackup.domain.model import Message as Said
from pgbackup.domain.ports import Site
from pgbackup.domain.review import COMPLETION, HEALTH, ITEMS, LOGS, RESTORATION, SIZES, Period, Review
from pgbackup.domain.settings import Contact, Mail, Retention
from pgbackup.report.review import ReviewReport, compose_review, review_text
from pgbackup.review import keep, review
from pgbackup.shelf import kept_reports, read_report
from pgbackup.store import LocalStore
from pgbackup.watch import names, watch
from pgbackup.watch.trends import mails_go_out

NOW = datetime(2026, 3, 20, 8, tzinfo=UTC)
NIGHT = timedelta(hours=6)
DAY = timedelta(days=1)
EVIL = "<script>alert('x')</script>|b"
BOTH = ("local", "vault")


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source, tmp_path: Path) -> Site:
    """Two repositories; whoever can be called has a name that is not harmless."""
    made = site_for(library, encrypted=False)
    roles = ("Database Administrator", "System Administrator", "Backup Service Provider")
    contacts = tuple(Contact(role=role, name=EVIL, reach="+1 555") for role in roles)
    return dataclasses.replace(
        made,
        clock=lambda: NOW,
        settings=made.settings.model_copy(update={"contacts": contacts}),
        repositories={**made.repositories, "vault": LocalStore(tmp_path / "vault", name="vault")},
    )


def week(site: Site, days: int = 9, *, without: int | None = None) -> list[str]:
    """A dump and a base of each night, verified in both repositories; return the ids of the dumps, newest first."""
    ids = []
    for number in range(days):
        if number == without:
            continue
        night = NOW - NIGHT - number * DAY
        aged.stored(site, night - timedelta(minutes=5), Kind.BASE, day=100 - number, repositories=BOTH)
        ids.append(aged.stored(site, night, repositories=BOTH))
    return ids


def failed(done: Review) -> dict[str, set[str]]:
    return {item.name: {one.name for one in item.findings if one.fails} for item in done.items if not item.ok}


def test_a_good_week_holds_in_every_item_and_is_kept_for_the_next_one(site: Site) -> None:
    week(site)
    done = review(site, "streamflix", Period.WEEKLY)
    assert [item.name for item in done.items] == [*ITEMS[Period.WEEKLY], HEALTH]
    assert failed(done) == {}
    assert all(item.findings for item in done.items)
    report = ReviewReport(done, contacts=site.settings.contacts)
    subject, html = compose_review(report)
    path = keep(site.settings, done, html=html, text=review_text(report))
    assert "every item holds" in subject
    (known,) = kept_reports(site.settings, "streamflix")
    assert (known.name, known.procedure, known.at) == (path.stem, "weekly_review", NOW)
    assert "every item holds" in known.headline
    assert read_report(site.settings, "streamflix", known.name) == html
    with pytest.raises(RefusedError, match="no report"):
        read_report(site.settings, "library", f"../streamflix/{known.name}")
    files = list(path.parent.iterdir())
    assert sorted(file.suffix for file in files) == [".html", ".json", ".md"]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
    for folder in (path.parent, path.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700

    later = review(dataclasses.replace(site, clock=lambda: NOW + DAY), "streamflix", Period.WEEKLY)
    assert later.before == done.measures
    (sizes,) = [one for one in later.items[-1].findings if one.name == "database size"]
    assert "library" in sizes.detail
    assert "(+0%)" in sizes.detail
    assert "since 2026-03-20" in sizes.detail


def test_a_night_without_a_backup_and_one_that_nobody_proved_are_found(site: Site) -> None:
    week(site, without=3)
    aged.stored(site, NOW - DAY, verdict=None, repositories=BOTH)
    found = failed(review(site, "streamflix", Period.WEEKLY))
    assert found == {
        COMPLETION: {f"a verified {kind} backup every day" for kind in ("full", "base")},
        RESTORATION: {"every backup was restored and compared"},
    }


def test_a_file_of_another_size_an_error_in_a_log_and_a_rejected_backup_are_found(site: Site) -> None:
    newest = week(site)[0]
    damaged = site.settings.paths.backups / BackupId.parse(newest).key("d.dump")
    damaged.write_bytes(b"short")
    logs = site.settings.paths.logs
    logs.mkdir()
    line = f"2026-03-20T02:00:00Z ERROR pgbackup.capture cannot read {EVIL}\n"
    (logs / "streamflix_backup_20260320_020000.log").write_text(line * 2 + "2026-03-20T02:00:01Z INFO pgbackup ok\n")
    os.utime(logs / "streamflix_backup_20260320_020000.log", (NOW.timestamp(), NOW.timestamp()))
    (logs / "other_backup_20260320_020000.log").write_text("2026-03-20T02:00:00Z ERROR pgbackup of another\n")
    aged.stored(site, NOW - timedelta(hours=1), verdict=Verdict.REJECTED, repositories=("local",))
    done = review(site, "streamflix", Period.WEEKLY)
    assert failed(done) == {
        SIZES: {"stored files have the sizes of their manifests"},
        LOGS: {"no error is in the logs"},
        RESTORATION: {"no newest backup is rejected"},
    }
    report = ReviewReport(done, contacts=site.settings.contacts)
    _, html = compose_review(report)
    text = review_text(report)
    assert "2 errors" in html
    for written in (html, text):
        assert "<script>" not in written
        assert BackupId.parse(newest).key("d.dump") in written.replace("\\", "")
    assert "&lt;script&gt;" in html


def test_a_month_tells_what_the_rules_keep_what_is_not_elsewhere_and_who_is_missing(site: Site) -> None:
    week(site)
    aged.stored(site, NOW - 60 * DAY, day=1, repositories=("local",))
    changed = with_settings(site, retention=Retention(daily=10 * DAY))
    changed = dataclasses.replace(changed, settings=changed.settings.model_copy(update={"contacts": ()}))
    done = review(changed, "streamflix", Period.MONTHLY)
    assert [item.name for item in done.items] == [*ITEMS[Period.MONTHLY], HEALTH]
    wrong = {one.name for item in done.items for one in item.findings if not one.ok}
    assert wrong >= {
        "the rules keep what the protocol asks for",
        "old backups are in every repository",
        "a recovery sheet is in local",
        "somebody can be called",
        "somebody hears of failures",
        "there are three copies",
    }
    assert not {"the rules are applied in local", "the rules are applied in vault"} & wrong
    warnings = {one.name for item in done.items for one in item.findings if not one.ok and not one.fails}
    assert warnings == {
        "the rules keep what the protocol asks for",
        "somebody can be called",
        "there are three copies",
    }


def test_a_server_that_is_down_hides_nothing_else_and_a_catalog_that_is_down_says_so(
    site: Site, tmp_path: Path
) -> None:
    week(site)
    gone = site.connections("streamflix").replace(host=str(tmp_path))
    done = review(dataclasses.replace(site, connections=lambda _: gone), "streamflix", Period.WEEKLY)
    assert failed(done) == {HEALTH: {"sizes can be asked for"}}
    silent = PostgresCatalog(lambda: psycopg.connect(f"host={tmp_path} dbname=x", autocommit=True))
    with pytest.raises(UnavailableError, match="catalog does not answer"):
        review(dataclasses.replace(site, catalog=silent), "streamflix", Period.WEEKLY)
    found = {one.name: one for one in watch(dataclasses.replace(site, catalog=silent), "streamflix")}
    assert not found[names.CATALOG].ok


def quiet(site: Site) -> dict[str, Finding]:
    """What the watch says of the backups."""
    wanted = {names.SIZE, names.DURATION, names.VERDICT, names.SPACE, names.MAIL, names.TOLD}
    return {one.name: one for one in watch(site, "streamflix") if one.name in wanted}


def test_the_watch_tells_a_small_backup_a_late_one_a_rejected_one_and_a_full_disk(
    site: Site, catalog_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    week(site)
    assert {name for name, one in quiet(site).items() if not one.ok} == set()
    with psycopg.connect(catalog_dsn, autocommit=True) as connection:
        connection.execute("UPDATE backup_log SET bytes = 8000000000, database_bytes = 9000000000")
        newest = "(SELECT id FROM backup_log WHERE kind = 'full' ORDER BY started_at DESC LIMIT 1)"
        connection.execute(f"UPDATE backup_log SET bytes = 4000000000, database_bytes = 4000000000 WHERE id = {newest}")
        connection.execute(
            "UPDATE backup_log SET finished_at = started_at + interval '61 min' WHERE kind = 'base'"
            " AND id = (SELECT max(id) FROM backup_log WHERE kind = 'base')"
        )
    monkeypatch.setattr(LocalStore, "free_bytes", lambda _: 20_000_000_000)
    rejected = aged.stored(site, NOW, verdict=Verdict.REJECTED, repositories=("local",))
    found = quiet(site)
    assert {name for name, one in found.items() if not one.ok} == {
        names.SIZE,
        names.DURATION,
        names.VERDICT,
        names.SPACE,
    }
    assert "-50%" in found[names.SIZE].detail
    assert rejected in found[names.VERDICT].detail
    assert "1:01:00, 1:00:00 allowed" in found[names.DURATION].detail
    for one in found.values():
        assert one.ok or (one.hint and names.meaning(one.name))


def test_a_change_that_nobody_was_told_of_is_a_finding_until_it_is_told(site: Site) -> None:
    mail = Mail(sender="backup@streamflix.example", recipients=("dba@streamflix.example",))
    mailing = dataclasses.replace(site, settings=site.settings.model_copy(update={"mail": mail}))
    changed = Finding(names.SLOT, False, 0.0, "lost", "")
    site.catalog.saw("streamflix", (changed,), owner="wal_watch/1", now=NOW - timedelta(minutes=5))
    assert quiet(mailing)[names.TOLD].ok
    site.catalog.forget("streamflix", [names.SLOT])
    site.catalog.saw("streamflix", (changed,), owner="wal_watch/1", now=NOW - timedelta(minutes=21))
    finding = quiet(mailing)[names.TOLD]
    assert not finding.ok
    assert names.SLOT in finding.detail
    assert quiet(site)[names.TOLD].ok, "nobody is to be told"
    site.catalog.told(site.catalog.watched("streamflix"), cluster="streamflix")
    assert quiet(mailing)[names.TOLD].ok


def test_a_message_that_cannot_be_sent_is_a_finding_of_its_cluster_and_of_all_when_that_one_is_gone(site: Site) -> None:
    def unsent(cluster: str) -> Unsent:
        return Unsent(1, "mail", Said(cluster, "s", "h", "l"), NOW, "OSError: refused")

    site.catalog.keep(Said("streamflix", "s", "h", "l"), channel="mail", error="OSError: refused", now=NOW)
    finding = quiet(site)[names.MAIL]
    assert not finding.ok
    assert "OSError: refused" in finding.detail
    configured = ["streamflix", "library"]
    assert [mails_go_out([unsent("library")], configured, one)[0] for one in configured] == [True, False]
    assert [mails_go_out([unsent("removed")], configured, one)[0] for one in configured] == [False, False]

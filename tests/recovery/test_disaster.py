"""Disaster recovery: a machine with nothing but a copy of the repository brings everything back, and writes it down."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from tests.support.archiving import archiving
from tests.support.keys import KeyPair
from tests.support.site import make_site, with_settings
from tests.support.source import SAMPLE, Source, free_port
from tests.support.traffic import TOTAL, Traffic

from pgbackup.assembly import build_site
from pgbackup.capture import capture_base
from pgbackup.domain.errors import PgBackupError, RefusedError, UnavailableError
from pgbackup.domain.findings import APPLICATION, PAGES, advice
from pgbackup.domain.incident import PHASES, Doing, Fact, Incident
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.settings import Connection, VerifyBackup, parse_settings
from pgbackup.domain.target import Latest, Target
from pgbackup.recover import Recovered, Request, disaster, foresee
from pgbackup.recover import plan as plan_recovery
from pgbackup.recover.incident import Journal, Told, journal_of
from pgbackup.report.incident import IncidentReport, compose_incident
from pgbackup.restore.archive import list_archive
from pgbackup.restore.rebuild import rebuild
from pgbackup.store import LocalStore
from pgbackup.verify import verify

QUERY = {"database": "bank", "sql": "SELECT sum(balance) FROM account", "within": "30s"}


@dataclass(frozen=True)
class Lost:
    """A server that is gone, and the copy of its repository that is left."""

    source: Source
    eu: Path
    base: str
    transfers: int
    gone_at: datetime


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Lost]:
    source, folder = Source(), tmp_path_factory.mktemp("first")
    server.execute("CREATE DATABASE first_catalog")
    try:
        source.make_roles()
        source.execute(f"ALTER ROLE postgres PASSWORD '{source.password}'")
        source.execute("CREATE DATABASE bank")
        for name in ("postgres", "bank"):
            source.run_script(SAMPLE / "pgbackup.sql", name)
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=first_catalog"
        site = make_site(folder, source, dsn, key)
        with archiving(site, source):
            with Traffic(source, "bank", clients=2):
                base = capture_base(site, "streamflix")
                time.sleep(0.3)
            with source.connect("bank") as connection:
                connection.execute("ALTER TABLE transfer ADD FOREIGN KEY (source) REFERENCES account")
                [transfers] = connection.execute("SELECT count(*) FROM transfer").fetchone() or (0,)
                [end] = connection.execute("SELECT pg_switch_wal()::text").fetchone() or ("",)
            last = Lsn.parse(end).segment(1, 16 << 20)
            deadline = time.monotonic() + 60
            while last not in {one.name for one in list_archive(site.local, "streamflix", system(base)).segments}:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        gone_at = datetime.now(UTC)
        eu = tmp_path_factory.mktemp("mounted") / "eu"
        shutil.copytree(
            site.settings.paths.backups, eu, ignore=lambda _, names: [name for name in names if name[0] == "."]
        )
        source.stop(signal.SIGQUIT)
        shutil.rmtree(source.data)
        yield Lost(source, eu, base.id, transfers, gone_at)
    finally:
        source.remove()
        server.execute("DROP DATABASE first_catalog WITH (FORCE)")


def system(base: object) -> str:
    return str(base.server.system_identifier)  # type: ignore[attr-defined]


@pytest.fixture
def bare(lost: Lost, tmp_path: Path, catalog_dsn: str, key: KeyPair) -> Site:
    """A machine with an empty catalog, no local backups, and the mounted copy."""
    return make_bare(lost, tmp_path, catalog_dsn, key, control={"data_directory": str(lost.source.data)})


def make_bare(lost: Lost, folder: Path, catalog_dsn: str, key: KeyPair, **cluster: object) -> Site:
    document = {
        "version": 1,
        "paths": {
            "backups": str(folder / "backups"),
            "logs": str(folder / "logs"),
            "postgres_bin": str(lost.source.bin),
        },
        "repositories": {"eu": {"folder": str(lost.eu)}},
        "catalog": {"service": "catalog"},
        "encryption": {
            "recipients": [str(key.public)],
            "private_keys": [str(key.private)],
            "passphrase_file": str(key.passphrase_file),
        },
        "clusters": {
            "streamflix": {
                "connection": {"service": "backup"},
                "recovery_connection": {"service": "postgres"},
                "verify_backup": {"application_role": "postgres", "queries": [QUERY]},
                **cluster,
            }
        },
    }

    def resolve(connection: Connection) -> ConnectionParameters:
        if connection.service == "catalog":
            return ConnectionParameters(psycopg.conninfo.conninfo_to_dict(catalog_dsn))
        return lost.source.parameters(connection.service or "", tcp=True)

    return build_site(parse_settings(document, source="the test"), resolve, owner="test")


def stored(folder: Path) -> dict[Path, int]:
    """Every file of a repository but its verdicts."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "attest"]
    return {path: path.stat().st_mtime_ns for path in files}


@contextlib.contextmanager
def ended(*folders: Path) -> Iterator[None]:
    """End the servers that live on in these folders."""
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                pid = int((folder / "postmaster.pid").read_text().split()[0])
                os.kill(pid, signal.SIGINT)
                deadline = time.monotonic() + 30
                while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                    time.sleep(0.05)


def declared(site: Site, lost: Lost) -> Journal:
    journal = journal_of(site.settings, "streamflix_20260131_120000", site.clock)
    journal.declare(site.clock(), "the machine burnt", {Fact.HAPPENED_AT: lost.gone_at.isoformat()})
    return journal


def validated(site: Site, lost: Lost, journal: Journal, into: Path, port: int) -> Recovered:
    """Everything up to the cutover."""
    journal.take(Doing.ASSESS, lambda: disaster.assess_scope(site, "streamflix", journal.read().since))
    request = Request(Latest(), into, None, None, port)
    ahead = foresee(site, "streamflix", request)
    journal.take(Doing.PLAN, lambda: Told(f"the latest from {ahead.plan.repository}", (), disaster.plan_facts(ahead)))
    assert lost.base in disaster.disaster_plan_text(site, journal.read(), ahead)
    journal.take(Doing.AVAILABILITY, lambda: disaster.verify_availability(site, ahead))
    journal.decide(Doing.PLAN, "by dana", approved=True)
    journal.take(Doing.PROVISION, lambda: disaster.provision(site, "streamflix", request))
    journal.take(Doing.PREPARE, lambda: disaster.prepare_files(site, "streamflix", ahead))
    journal.take(Doing.NOTIFY, lambda: Told("mailed"))
    found: list[Recovered] = []

    def restore() -> Told:
        told, recovered = disaster.restore(site, "streamflix", request)
        found.append(recovered)
        return told

    journal.take(Doing.RESTORE, restore)
    [recovered] = found
    for _ in range(2):  # a try again finds the server that the first one started, and what it found of the pages
        journal.take(Doing.INTEGRITY, lambda: disaster.verify_integrity(site, recovered, journal.read()))
        assert PAGES in {finding.name for finding in journal.read().findings}
        journal.take(Doing.CONNECTIVITY, lambda: disaster.check_connectivity(site, "streamflix", recovered, port))
    journal.take(Doing.FUNCTIONS, lambda: disaster.check_functions(site, "streamflix", recovered, port))
    journal.take(Doing.DATA, lambda: disaster.check_data(site, "streamflix", recovered, port, journal.read()))
    journal.take(
        Doing.PERFORMANCE, lambda: disaster.check_performance(site, "streamflix", recovered, port, journal.read())
    )
    return recovered


def bank(**keywords: str | int) -> tuple[int, int]:
    with psycopg.connect(**keywords, user="postgres", dbname="bank") as connection:  # type: ignore[arg-type]
        row = connection.execute("SELECT (SELECT sum(balance) FROM account), (SELECT count(*) FROM transfer)")
        return row.fetchone() or (0, 0)


def composed(site: Site, incident: Incident) -> tuple[str, str, str]:
    return compose_incident(
        IncidentReport("streamflix", incident, site.settings.objectives, site.clock(), "the run", "http://x")
    )


def test_a_copy_of_the_repository_is_all_that_is_needed(lost: Lost, bare: Site, tmp_path: Path) -> None:
    journal, into, port = declared(bare, lost), tmp_path / "new", free_port()
    before = stored(lost.eu)
    with ended(into, lost.source.data):
        recovered = validated(bare, lost, journal, into, port)
        assert bank(host=str(into), port=port) == (TOTAL, lost.transfers)
        assert lost.base in {backup.id for backup in bare.catalog.backups("streamflix")}
        plan = disaster.plan_cutover(bare, "streamflix", recovered, port)
        assert bank(host=str(into), port=port) == (TOTAL, lost.transfers), "it can be tried until somebody approves"
        text = disaster.cutover_text(bare, journal.read(), plan, f"127.0.0.1:{port}")
        assert str(lost.source.data) in text
        reappeared(lost, bare, plan, recovered)
        journal.take(Doing.SWITCH, lambda: disaster.switch(bare, plan, recovered))
        again = disaster.switch(bare, plan, recovered)
        assert "an earlier try" in again.detail
        unfit = with_settings(bare, verify_backup=VerifyBackup(application_role="nobody"))
        with pytest.raises(RefusedError, match="the application cannot work in it"):
            disaster.switch(unfit, plan, recovered)
        elsewhere = dataclasses.replace(recovered.replayed, lsn=recovered.replayed.lsn.minus(8))
        with pytest.raises(UnavailableError, match="is not the recovered cluster"):
            disaster.monitor(bare, "streamflix", dataclasses.replace(recovered, replayed=elsewhere))
        with archiving(bare, lost.source):
            journal.take(Doing.MONITOR, lambda: disaster.monitor(bare, "streamflix", recovered))
        secret = {"password": lost.source.password}
        assert bank(host="127.0.0.1", port=lost.source.port, **secret) == (TOTAL, lost.transfers)
        journal.take(Doing.DOCUMENT, lambda: Told("the report is written"))
    incident = journal.read()
    assert advice(incident.findings) == ""
    disaster.refuse_findings(incident)
    assert all(timing.ended for timing in incident.timings())
    assert incident.rpo is not None
    assert incident.rto is not None
    assert stored(lost.eu) == before, "a copy is only read"
    subject, markdown, html = composed(bare, incident)
    assert "service restored after" in subject
    for word in ("by dana", "the machine burnt", "objective 1:00:00", *(phase.name for phase in PHASES)):
        assert word in markdown
        assert word in html


def reappeared(lost: Lost, site: Site, plan: disaster.Cutover, recovered: Recovered) -> None:
    """What nobody knew of when the switch was approved is not set aside by it."""
    lost.source.data.mkdir()
    (lost.source.data / "PG_VERSION").write_text("18\n")
    with pytest.raises(RefusedError, match="streamflix is there again"):
        disaster.switch(site, plan, recovered)
    assert [path.name for path in lost.source.data.iterdir()] == ["PG_VERSION"]
    shutil.rmtree(lost.source.data)


def test_without_control_people_switch_and_nothing_is_green_before_they_did(
    lost: Lost, tmp_path: Path, key: KeyPair
) -> None:
    """And there is no catalog, which costs nothing but better predictions."""
    verify_backup = {"application_role": "app"}
    site = make_bare(lost, tmp_path, "host=/nonexistent dbname=none", key, verify_backup=verify_backup)
    journal, into, port = declared(site, lost), tmp_path / "new", free_port()
    with ended(into):
        recovered = validated(site, lost, journal, into, port)
        plan = disaster.plan_cutover(site, "streamflix", recovered, port)
        text = disaster.cutover_text(site, journal.read(), plan, "here")
        told = journal.take(Doing.SWITCH, lambda: disaster.switch(site, plan, recovered))
        assert "to be done by hand" in told.detail
        assert "people have to switch" in text
        with pytest.raises(UnavailableError):
            journal.take(Doing.MONITOR, lambda: disaster.monitor(site, "streamflix", recovered))
    incident = journal.read()
    assert APPLICATION in {finding.name for finding in incident.findings if finding.ok}
    assert incident.failed == (Doing.MONITOR,)
    assert incident.rto is None
    subject, markdown, _ = composed(site, incident)
    assert "STOPPED at: monitor for issues" in subject
    assert "to be done by hand" in markdown
    assert "the recovery goes on without a catalog" in markdown
    assert "postmaster" in markdown


def test_what_is_cut_short_in_the_copy_is_found_before_anybody_is_asked(lost: Lost, bare: Site, tmp_path: Path) -> None:
    ahead = foresee(bare, "streamflix", Request(Latest(), tmp_path / "new", None, "eu", None))
    for pattern, reason in (("base/*/base.tar*", lost.base), ("wal/**/*.zst.gpg", "WAL segment")):
        path = max(lost.eu.glob(pattern))
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        try:
            with pytest.raises(RefusedError, match="not available in eu") as refused:
                disaster.verify_availability(bare, ahead)
        finally:
            path.write_bytes(whole)
        assert reason in (refused.value.detail or "")
    assert all(finding.ok for finding in disaster.verify_availability(bare, ahead).findings)


def test_the_repository_that_reaches_farthest_is_chosen(lost: Lost, bare: Site, tmp_path: Path) -> None:
    shutil.copytree(lost.eu, tmp_path / "us", ignore=shutil.ignore_patterns("wal"))
    short = LocalStore(tmp_path / "us", name="us")

    def chosen(target: Target, *stores: Store) -> str:
        site = dataclasses.replace(bare, repositories={store.name: store for store in (bare.local, *stores)})
        return plan_recovery(site, "streamflix", target, timeline=None, repository=None).repository

    eu = bare.repositories["eu"]
    assert (chosen(Latest(), short, eu), chosen(Latest(), eu, short)) == ("eu", "eu")
    assert chosen(Latest(), short) == "us"


def test_no_repository_reaches_what_was_never_there(lost: Lost, bare: Site) -> None:
    lost.eu.rename(lost.eu.with_name("unmounted"))
    try:
        with pytest.raises(PgBackupError, match="no repository reaches the latest") as refused:
            plan_recovery(bare, "streamflix", Latest(), timeline=None, repository=None)
        scope = disaster.assess_scope(bare, "streamflix", bare.clock())
    finally:
        lost.eu.with_name("unmounted").rename(lost.eu)
    for name in ("local", "eu"):
        assert f"repository {name} holds no physical backup" in (refused.value.detail or "")
    assert "everything that no dump holds" in scope.detail


def test_a_copy_is_proved_where_it_is_and_writes_nothing_but_its_verdict(lost: Lost, bare: Site) -> None:
    before = stored(lost.eu)
    assert rebuild(bare, bare.repositories["eu"]).recorded == (lost.base,)
    verification = verify(bare, lost.base, "eu")
    assert verification.verdict == "verified", advice(verification.findings)
    assert list(lost.eu.glob("base/*/attest/verdict-eu-*"))
    assert stored(lost.eu) == before
    assert not list(bare.settings.paths.backups.glob("base*"))

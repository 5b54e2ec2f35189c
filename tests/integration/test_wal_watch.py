"""The watch: each finding holds on a healthy server with a real receiver, and fails for what it is there for."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.support.archiving import archiving
from tests.support.manifests import manifest
from tests.support.receiver import eventually
from tests.support.source import ROOT, SAMPLE, Source

from pgbackup.catalog import PostgresCatalog
from pgbackup.domain.drill import Drill, DrillStep, Scenario
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.metrics import METRICS, exposition
from pgbackup.domain.model import CopyState, Finding, Kind, Verdict, Verification
from pgbackup.domain.ports import Site
from pgbackup.domain.prospect import Prospect
from pgbackup.domain.sums import format_sums
from pgbackup.domain.wal import Sealed, Segment
from pgbackup.postgres.programs import find_programs
from pgbackup.restore.received import receiver_folder
from pgbackup.wal.seal import seal_file
from pgbackup.watch import examine, names, watch

SLOT = "pgbackup"
MONITORING = ROOT / "include" / "monitoring"
HOUR = timedelta(hours=1)
BEGINNING = Lsn(0)
SIZE = 1 << 20
"""Of a segment: small, so that many are made in no time, and not the default."""


@dataclasses.dataclass
class Field:
    """A protected server, its site, and what is between them."""

    source: Source
    site: Site
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where the receiver writes."""
        return receiver_folder(self.site.settings, "streamflix") / self.system

    def ask(self, query: str) -> Any:
        with self.source.connect("postgres") as connection:
            row = connection.execute(query).fetchone()
        return row[0] if row else None

    def receive(self) -> None:
        """Start the receiver; return when the server says that it streams."""
        self.folder.mkdir(parents=True, exist_ok=True)
        where = ["-h", str(self.source.folder), "-p", str(self.source.port), "-U", "postgres"]
        options = [f"--slot={SLOT}", "--synchronous", "--no-loop", "--status-interval=1", f"--directory={self.folder}"]
        self.process = subprocess.Popen(
            [str(self.source.bin / "pg_receivewal"), *where, *options], stderr=subprocess.DEVNULL
        )
        self.wait("SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None
            self.wait(f"SELECT NOT bool_or(active) FROM pg_replication_slots WHERE slot_name = '{SLOT}'")

    def wait(self, condition: str) -> None:
        eventually(lambda: self.ask(condition))

    def beat(self, ago: str = "0") -> None:
        """Write a heartbeat, as the receiver does."""
        self.source.execute(f"INSERT INTO pgbackup.heartbeat (moment) VALUES (clock_timestamp() - interval '{ago}')")

    def switch(self, times: int = 1) -> None:
        """Finish segments; wait until a running receiver has them."""
        for _ in range(times):
            self.source.execute("SELECT pg_logical_emit_message(true, 'test', 'x'); SELECT pg_switch_wal()")
        if self.process is not None:
            self.wait(
                "SELECT bool_and(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication"
                f" WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{SLOT}')"
            )

    def seal(self, folder: Path | None = None) -> list[Sealed]:
        """Archive the finished segments of a folder; the folder forgets them."""
        programs, sealed = find_programs(self.source.bin, major=self.source.major), []
        for path in sorted((folder or self.folder).glob("?" * 24)):
            sealed.append(seal_file(self.site, "streamflix", path, system_identifier=self.system, programs=programs))
            path.unlink()
        return sealed

    def put(self, sealed: Sealed) -> Sealed:
        with self.site.local.create(sealed.sidecar_key) as sink:
            sink.write(sealed.to_json())
        return sealed

    def back_up(self, kind: Kind = Kind.BASE, *, age: timedelta = HOUR, start: Lsn = BEGINNING) -> Manifest:
        """Let the repository hold a verified backup of this server."""
        moment = self.site.clock() - age
        known = manifest()
        server = known.server.model_copy(update={"system_identifier": self.system})
        wal = {"start_lsn": str(start), "stop_lsn": str(start), "end_lsn": str(start)} if kind is Kind.BASE else {}
        backup_id = BackupId.at("streamflix", moment, kind)
        made = manifest(moment=moment, id=str(backup_id), kind=kind, server=server, files=(), **wal)
        for name, text in (
            (MANIFEST, made.to_json()),
            (SUMS, format_sums({MANIFEST: sha256(made.to_json()).hexdigest()})),
        ):
            with self.site.local.create(backup_id.key(name)) as sink:
                sink.write(text)
        proof = Verification(made.id, "local", 1, moment, moment, Verdict.VERIFIED)
        self.site.catalog.register(
            made, repository="local", copy=CopyState.STORED, verifications=[proof], now=self.site.clock()
        )
        return made

    @functools.cached_property
    def system(self) -> str:
        return str(self.ask("SELECT system_identifier::text FROM pg_control_system()"))

    @property
    def insert(self) -> Lsn:
        return Lsn.parse(self.ask("SELECT pg_current_wal_insert_lsn()::text"))

    def with_wal(self, **changes: object) -> Field:
        """The same with other settings."""
        cluster = self.site.settings.cluster("streamflix")
        wal = cluster.wal.model_copy(update=changes)
        settings = self.site.settings.model_copy(
            update={"clusters": {"streamflix": cluster.model_copy(update={"wal": wal})}}
        )
        return dataclasses.replace(self, site=dataclasses.replace(self.site, settings=settings))

    def found(self) -> dict[str, Finding]:
        return {finding.name: finding for finding in watch(self.site, "streamflix")}

    def failed(self) -> set[str]:
        return {name for name, finding in self.found().items() if not finding.ok}


@pytest.fixture(scope="module")
def protected() -> Iterator[Source]:
    """A server that archives where a test tells it to."""
    own = Source(segment=SIZE >> 20)
    try:
        own.make_roles()
        own.run_script(SAMPLE / "pgbackup.sql", "postgres")
        own.execute("ALTER SYSTEM SET archive_mode = on")
        own.execute("ALTER SYSTEM SET archive_timeout = 300")
        own.stop()
        own.start()
        yield own
    finally:
        own.remove()


@pytest.fixture
def field(protected: Source, site_for: Callable[..., Site]) -> Iterator[Field]:
    """A slot, and nobody who uses it yet."""
    protected.execute("TRUNCATE pgbackup.heartbeat")
    protected.execute(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
    own = Field(protected, site_for(protected, encrypted=False))
    try:
        yield own
    finally:
        own.stop()
        protected.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        protected.execute("ALTER SYSTEM RESET archive_command")
        protected.execute("SELECT pg_reload_conf()")
        protected.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


@pytest.fixture
def healthy(field: Field) -> Field:
    """All that is watched holds: the receiver streams, three segments are archived, the night went well."""
    field.receive()
    field.beat()
    field.back_up(Kind.FULL)
    field.back_up(start=field.insert)
    field.switch(3)
    assert len(field.seal()) >= 3
    field.beat()
    return field


# ------------------------------------------------------------------------------------------------------- the archive


def test_a_healthy_server_is_green_and_a_quiet_one_stays_so(healthy: Field) -> None:
    found = healthy.found()
    assert {name: finding.detail for name, finding in found.items() if not finding.ok} == {}
    assert set(found) == {
        *(names.SERVER, names.CATALOG, names.ARCHIVE, names.CONTINUITY, names.CONFLICTS, names.SLOT, names.RECEIVER),
        *(names.RETAINED, names.LAG, names.RPO, names.BACKUP, names.DRILL, names.KEYS),
        *(names.VERDICT, names.SIZE, names.DURATION, names.SPACE, names.MAIL, names.TOLD),
    }
    # Nothing was archived for long, since nothing was finished: that is no lag and no loss.
    healthy.source.execute("UPDATE pgbackup.heartbeat SET moment = moment - interval '3 days'")
    healthy.beat()
    assert healthy.failed() == set()


def test_the_real_receiver_is_green(field: Field) -> None:
    field.back_up(Kind.FULL)
    field.back_up(start=field.insert)
    with archiving(field.site, field.source):
        field.wait("SELECT count(*) > 1 FROM pgbackup.heartbeat")
        field.switch(2)
        eventually(lambda: any(field.site.local.list("wal/")))
        found = field.found()
    assert {name: finding.detail for name, finding in found.items() if not finding.ok} == {}
    assert "on timeline 1" in found[names.CONTINUITY].detail


def test_a_gap_behind_the_newest_base_fails_and_one_before_it_is_told(healthy: Field) -> None:
    healthy.switch(3)
    lost = healthy.seal()[1]
    healthy.site.local.delete(lost.sidecar_key)
    finding = healthy.found()[names.CONTINUITY]
    assert not finding.ok
    assert str(Segment.parse(lost.name, SIZE).start) in finding.detail
    assert "streamflix_full_backup" in finding.hint
    base = healthy.back_up(age=HOUR / 2, start=healthy.insert)
    finding = healthy.found()[names.CONTINUITY]
    assert finding.ok
    assert base.id in finding.detail
    assert "limits the window" in finding.detail


def test_a_gap_between_the_base_and_the_archive_fails(healthy: Field) -> None:
    before = healthy.insert
    healthy.switch(2)
    for sealed in healthy.seal()[:-1]:
        healthy.site.local.delete(sealed.sidecar_key)
    assert names.CONTINUITY in healthy.failed()
    healthy.back_up(age=HOUR / 2, start=before.minus(SIZE))
    assert names.CONTINUITY in healthy.failed()


def test_a_timeline_begins_where_the_one_before_ends(healthy: Field) -> None:
    last = last_segment(healthy)
    promoted = dataclasses.replace(last, timeline=2)
    healthy.put(forged(healthy, promoted.next()))
    assert names.CONTINUITY not in healthy.failed()
    healthy.site.local.delete(forged(healthy, promoted.next()).sidecar_key)
    healthy.put(forged(healthy, promoted.next().next().next()))  # the receiver is in the one next to the last
    assert names.CONTINUITY in healthy.failed()


def test_two_contents_of_one_segment_fail(healthy: Field) -> None:
    last = last_segment(healthy)
    healthy.put(forged(healthy, last))
    finding = healthy.found()[names.CONFLICTS]
    assert not finding.ok
    assert last.name in finding.detail
    healthy.back_up(age=HOUR / 2, start=last.end)
    assert names.CONFLICTS not in healthy.failed()


def sidecars(field: Field) -> list[str]:
    return [info.key for info in field.site.local.list("wal/") if info.key.endswith(".json")]


def last_segment(field: Field) -> Segment:
    return Segment.parse(sidecars(field)[-1].rpartition("/")[2][:24], SIZE)


def forged(field: Field, segment: Segment) -> Sealed:
    return Sealed(
        cluster="streamflix",
        name=segment.name,
        system_identifier=field.system,
        timeline=segment.timeline,
        segment_size=SIZE,
        plain_bytes=SIZE,
        plain_sha256="f" * 64,
        stored_bytes=1,
        stored_sha256="f" * 64,
        encrypted=False,
        sealed_at=field.site.clock(),
    )


def test_what_is_on_the_receiver_s_disk_is_no_gap_but_a_lag_when_it_stays(healthy: Field) -> None:
    healthy.switch(2)
    assert healthy.failed() == set()
    healthy.source.execute("UPDATE pgbackup.heartbeat SET moment = moment - interval '10 minutes'")
    healthy.beat()
    assert healthy.failed() == {names.LAG}
    healthy.seal()
    assert healthy.failed() == set()


# -------------------------------------------------------------------------------------------------------- the metrics


def named_in(text: str) -> set[str]:
    return set(re.findall(r"pgbackup_[a-z_]+", text))


def test_all_that_rules_and_dashboard_ask_for_is_measured_on_a_healthy_server(healthy: Field) -> None:
    """Prometheus's own parser reads it, whatever names are in it."""
    site, now = healthy.site, healthy.site.clock()
    odd = 'v"a\\ult'
    site = dataclasses.replace(site, repositories={**site.repositories, odd: site.local})
    step, item = DrillStep("fetch", 12.5, 10.0), Finding("Backup file accessible", True, 0.1)
    site.catalog.drilled(Drill("streamflix", Scenario.FULL, "s", now, now, 3.0, (step,), (item,), "o"))
    site.catalog.wal_copied("streamflix", odd, whole_at=now, missing=0, error="", now=now)
    site.catalog.looked(Prospect("streamflix", now, (), (), (), (), 0, 42.0, ""))
    text = exposition(examine(site, "streamflix").samples)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.type == "gauge" and family.documentation for family in families.values())
    for file in ("prometheus-rules.yaml", "grafana-dashboard.json"):
        asked = named_in((MONITORING / file).read_text())
        assert asked
        assert asked <= families.keys(), file
    assert families.keys() == METRICS.keys()
    value = {name: family.samples[0].value for name, family in families.items()}
    assert value["pgbackup_rpo_seconds"] < 60
    assert value["pgbackup_wal_gaps"] == 0
    assert value["pgbackup_rto_predicted_seconds"] == 42
    assert (value["pgbackup_drill_rto_seconds"], value["pgbackup_drill_ok"]) == (12.5, 1)
    assert odd in {one.labels.get("repository") for one in families["pgbackup_copies"].samples}
    assert {one.labels["finding"] for one in families["pgbackup_finding_ok"].samples} >= {names.RPO, names.SLOT}
    healthy.stop()
    healthy.source.execute("UPDATE pgbackup.heartbeat SET moment = moment - interval '50 minutes'")
    healthy.switch()
    assert next(one.value for one in examine(site, "streamflix").samples if one.name == "pgbackup_rpo_seconds") >= 3000


def test_the_rules_and_the_dashboard_are_whole() -> None:
    (group,) = yaml.safe_load((MONITORING / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert named_in(rule["expr"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    known = {one["name"] for one in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", json.dumps(dashboard))) == known
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert all(named_in(target["expr"]) for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


# ------------------------------------------------------------------------------------------- the slot and its receiver


def test_a_missing_slot_fails(healthy: Field) -> None:
    healthy.stop()
    healthy.source.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")
    found = healthy.found()
    assert {name for name, finding in found.items() if not finding.ok} == {names.SLOT, names.RECEIVER}
    assert "pgbackup wal create-slot" in found[names.SLOT].hint


def test_a_slot_made_anew_is_a_gap(healthy: Field) -> None:
    healthy.stop()
    healthy.source.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")
    healthy.switch(2)
    healthy.source.execute("CHECKPOINT")  # a new slot begins at the last one
    healthy.source.execute(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
    finding = healthy.found()[names.SLOT]
    assert not finding.ok
    assert "a gap" in finding.detail


def test_a_slot_about_to_be_lost_and_a_lost_one_fail(healthy: Field) -> None:
    healthy.stop()
    healthy.source.execute(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{4 * SIZE >> 20}MB'")
    healthy.source.execute("SELECT pg_reload_conf()")
    healthy.switch(3)
    assert healthy.failed() >= {names.RETAINED, names.RECEIVER}
    assert names.SLOT not in healthy.failed()
    healthy.switch(4)
    healthy.source.execute("CHECKPOINT")
    finding = healthy.found()[names.SLOT]
    assert not finding.ok
    assert "keeps no WAL" in finding.detail


def test_a_dead_receiver_fails(healthy: Field) -> None:
    healthy.stop()
    found = healthy.found()
    assert {name for name, finding in found.items() if not finding.ok} == {names.RECEIVER}
    assert "pgbackup wal receive" in found[names.RECEIVER].hint


def test_a_receiver_that_writes_no_heartbeat_fails(healthy: Field) -> None:
    healthy.source.execute("UPDATE pgbackup.heartbeat SET moment = moment - interval '6 minutes'")
    assert names.RECEIVER in healthy.failed()


def test_what_the_server_keeps_for_the_slot_is_limited(healthy: Field) -> None:
    healthy.stop()
    healthy.switch(2)
    assert names.RETAINED not in healthy.failed()
    finding = healthy.with_wal(retained=SIZE).found()[names.RETAINED]
    assert not finding.ok
    assert "1 MB allowed" in finding.detail


def test_what_is_written_behind_a_dead_receiver_exceeds_the_rpo(healthy: Field) -> None:
    healthy.stop()
    healthy.source.execute("UPDATE pgbackup.heartbeat SET moment = moment - interval '50 minutes'")
    healthy.switch()
    assert names.RPO not in healthy.failed()
    healthy.source.execute("UPDATE pgbackup.heartbeat SET moment = moment - interval '20 minutes'")
    finding = healthy.found()[names.RPO]
    assert not finding.ok
    assert "1:00:00 allowed" in finding.detail


# ----------------------------------------------------------------------------------------------------- archive_command


def test_the_server_s_own_archiving(field: Field) -> None:
    """One story, as each step needs the one before: it fails, it works, its files are nowhere, they are there."""
    own = field.with_wal(method="archive_command", stale=timedelta(days=1))
    field.back_up(Kind.FULL)
    field.back_up(start=field.insert)
    target = field.source.folder / "archived"  # the server may run as another user, who owns that folder
    target.mkdir()
    target.chmod(0o777)

    def archive_with(command: str) -> None:
        field.source.execute(f"ALTER SYSTEM SET archive_command = '{command}'")
        field.source.execute("SELECT pg_reload_conf()")

    archive_with("false")
    field.switch(2)
    field.wait("SELECT failed_count > 0 FROM pg_stat_archiver")
    assert own.failed() == {names.ARCHIVER}
    assert own.with_wal(retained=SIZE).failed() == {names.ARCHIVER, names.RETAINED}
    assert own.with_wal(stale=timedelta(0)).failed() == {names.ARCHIVER, names.LAG}

    archive_with("true")
    field.switch()
    field.wait("SELECT last_archived_time > last_failed_time FROM pg_stat_archiver")
    finding = own.found()[names.ARCHIVER]
    assert not finding.ok
    assert "does not hold it" in finding.detail

    archive_with(f"cp %p {target}/%f")
    name = field.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    field.switch()
    field.wait(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver")
    field.seal(target)
    found = own.found()
    assert found[names.ARCHIVER].ok, found[names.ARCHIVER]
    assert {found[one].ok for one in (names.RETAINED, names.LAG, names.RPO)} == {True}

    field.source.execute("ALTER SYSTEM SET archive_timeout = 0")
    field.source.execute("SELECT pg_reload_conf()")
    field.wait("SELECT setting = '0' FROM pg_settings WHERE name = 'archive_timeout'")
    assert names.RPO in own.failed()
    field.source.execute("ALTER SYSTEM SET archive_timeout = 300")
    field.source.execute("SELECT pg_reload_conf()")


# -------------------------------------------------------------------------------------------------- what is not there


def test_without_the_server_the_archive_is_judged(healthy: Field) -> None:
    key = sidecars(healthy)[-2]
    healthy.stop()
    healthy.source.stop()
    try:
        assert healthy.failed() == {names.SERVER}
        healthy.site.local.delete(key)
        found = healthy.found()
    finally:
        healthy.source.start()
    assert {name for name, finding in found.items() if not finding.ok} == {names.SERVER, names.CONTINUITY}
    assert names.SLOT not in found


def test_a_silent_catalog_hides_no_gap(healthy: Field, tmp_path: Path) -> None:
    silent = PostgresCatalog(lambda: psycopg.connect(host=str(tmp_path), dbname="c", autocommit=True))
    blind = dataclasses.replace(healthy, site=dataclasses.replace(healthy.site, catalog=silent))
    assert blind.failed() == {names.CATALOG}
    healthy.site.local.delete(sidecars(healthy)[-2])
    assert blind.failed() == {names.CATALOG, names.CONTINUITY}


@pytest.mark.parametrize("kind", [Kind.FULL, Kind.BASE])
def test_a_night_that_is_missing_fails(field: Field, kind: Kind) -> None:
    other = Kind.BASE if kind is Kind.FULL else Kind.FULL
    field.back_up(other)
    field.back_up(kind, age=timedelta(hours=27))
    finding = field.found()[names.BACKUP]
    assert not finding.ok
    assert "streamflix_full_backup" in finding.hint
    field.back_up(kind, age=timedelta(hours=25))
    assert field.found()[names.BACKUP].ok


def test_a_scenario_that_was_not_drilled_for_long_fails_but_not_on_a_new_cluster(field: Field) -> None:
    day = timedelta(days=1)

    def drill(scenario: Scenario, *, age: timedelta) -> None:
        moment = field.site.clock() - age
        field.site.catalog.drilled(Drill("streamflix", scenario, "", moment, moment, None, (), (), "test"))

    field.back_up(age=99 * day)
    assert field.found()[names.DRILL].ok
    field.back_up(age=101 * day)
    finding = field.found()[names.DRILL]
    assert not finding.ok
    assert "streamflix_recovery_drill" in finding.hint
    for scenario in Scenario:
        drill(scenario, age=101 * day)
        assert not field.found()[names.DRILL].ok
    drill(Scenario.FULL, age=day)
    drill(Scenario.TABLE, age=day)
    assert "point in time" in field.found()[names.DRILL].detail
    assert not field.found()[names.DRILL].ok
    drill(Scenario.POINT_IN_TIME, age=99 * day)
    assert field.found()[names.DRILL].ok

"""A cluster recovered beside: exactly what was committed before the target, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests.support.archiving import archiving
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.forgery import folder_of, put_manifest
from tests.support.keys import KeyPair
from tests.support.site import make_site, with_settings
from tests.support.source import SAMPLE, Source, free_port
from tests.support.traffic import TOTAL, Traffic

from pgbackup.capture import capture_base, capture_incremental
from pgbackup.catalog import PostgresCatalog
from pgbackup.domain.errors import BusyError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.findings import LATEST
from pgbackup.domain.ids import MANIFEST, SUMS
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.domain.rates import learned
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target
from pgbackup.domain.wal import Segment
from pgbackup.postgres.physical import read_transactions
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover import Recovered, plan, proved_lately, recover_cluster, verify_latest
from pgbackup.recover.stage import stage_wal
from pgbackup.recover.workplace import workplace
from pgbackup.restore.archive import list_archive

_COMMIT = re.compile(
    r"tx: +(\d+), lsn: ([0-9A-F/]+), .*desc: COMMIT(?:_PREPARED (\d+):)? (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC"
)


@dataclass(frozen=True)
class Commit:
    """A commit record of the source's own WAL."""

    lsn: Lsn
    xid: int
    stamp: datetime


@dataclass(frozen=True)
class Story:
    """A bank with a base, a block incremental and archived WAL, and its true history."""

    source: Source
    site: Site
    base: Manifest
    incremental: Manifest
    bundle: Manifest
    commits: tuple[Commit, ...]
    transfers: frozenset[int]
    moments: tuple[datetime, datetime]
    positions: tuple[Lsn, Lsn]
    points: tuple[Lsn, Lsn]

    def before(self, target: Target) -> frozenset[int]:
        """The transactions of transfers that have to be there at a target."""
        found = set(self.transfers) - {commit.xid for commit in self.commits}  # from before the base
        for commit in self.commits:
            if isinstance(target, AtTime) and commit.stamp > target.moment:
                break
            if isinstance(target, AtLsn) and commit.lsn >= target.lsn:
                break
            found.add(commit.xid)
            if isinstance(target, AtXid) and commit.xid == target.xid:
                break
        return frozenset(found) & self.transfers


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Story]:
    source = Source()
    server.execute("CREATE DATABASE recovery_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE bank")
        for name in ("postgres", "bank"):
            source.run_script(SAMPLE / "pgbackup.sql", name)
        for setting in ("summarize_wal = on", "wal_keep_size = '4GB'"):
            source.execute(f"ALTER SYSTEM SET {setting}")
        source.execute("SELECT pg_reload_conf()")
        source.execute(
            "CREATE TABLE transfer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, source int NOT NULL,"
            " target int NOT NULL, amount int NOT NULL, at timestamptz DEFAULT now(),"
            " xid xid8 DEFAULT pg_current_xact_id())",
            "bank",
        )
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=recovery_catalog"
        site = make_site(tmp_path_factory.mktemp("recovery"), source, dsn, key)
        yield tell(source, site)
    finally:
        source.remove()
        server.execute("DROP DATABASE recovery_catalog WITH (FORCE)")


def tell(source: Source, site: Site) -> Story:
    moments, positions, points = [], [], []
    with archiving(site, source):
        with Traffic(source, "bank", clients=3):
            base = capture_base(site, "streamflix")
            for taken in range(2):
                time.sleep(0.5)
                with source.connect("bank") as connection:
                    [moment, lsn] = connection.execute(
                        "SELECT clock_timestamp(), pg_current_wal_insert_lsn()"
                    ).fetchone()
                    moments.append(moment.astimezone(UTC))
                    positions.append(Lsn.parse(lsn))
                    points.append(
                        Lsn.parse(connection.execute("SELECT pg_create_restore_point('twice')").fetchone()[0])
                    )
                    time.sleep(0.3)
                    connection.execute("SELECT pg_switch_wal()")
                if taken == 0:
                    incremental = capture_incremental(site, "streamflix")
        options = site.settings.cluster("streamflix").incremental_backup.model_copy(update={"method": "wal"})
        bundle = capture_incremental(with_settings(site, incremental_backup=options), "streamflix")
        end = close(source, site, timeline=1)
    return Story(
        source=source,
        site=site,
        base=base,
        incremental=incremental,
        bundle=bundle,
        commits=truth(source, site, Lsn.parse(base.start_lsn or ""), end),
        transfers=transferred(source),
        moments=(moments[0], moments[1]),
        positions=(positions[0], positions[1]),
        points=(points[0], points[1]),
    )


def transferred(source: Source) -> frozenset[int]:
    with source.connect("bank") as connection:
        return frozenset(int(xid) for (xid,) in connection.execute("SELECT xid::text FROM transfer"))


def close(source: Source, site: Site, *, timeline: int) -> Lsn:
    """Make a whole segment of everything, and wait until it is archived; return its end."""
    with source.connect("bank") as connection:
        end = Lsn.parse(connection.execute("SELECT pg_switch_wal()::text").fetchone()[0])
    deadline = time.monotonic() + 60
    while all(one.name != end.segment(timeline, 16 << 20) for one in archived(site)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return end


def archived(site: Site) -> list[Segment]:
    [system] = {path.name for path in (site.settings.paths.backups / "wal" / "streamflix").glob("*")} or {""}
    return sorted(list_archive(site.local, "streamflix", system).segments)


def truth(source: Source, site: Site, start: Lsn, end: Lsn) -> tuple[Commit, ...]:
    """Read the source's own WAL."""
    command = read_transactions(Programs(source.bin), source.data / "pg_wal", timeline=1, start=start, end=end)
    output, _ = site.runner.run(command)
    return tuple(
        Commit(Lsn.parse(match[2]), int(match[3] or match[1]), datetime.fromisoformat(match[4] + "+00:00"))
        for match in _COMMIT.finditer(output.decode())
    )


def bank(recovered: Recovered, story: Story, folder: Path) -> tuple[int, frozenset[int]]:
    """The total, and the transactions that are there, in a recovered directory."""
    server = ThrowAwayServer(folder, Programs(story.source.bin), story.site.runner, "postgres", 18)
    (folder / "data").symlink_to(recovered.folder)
    with server.running() as parameters, psycopg.connect(**{**parameters.keywords, "dbname": "bank"}) as connection:
        [total] = connection.execute("SELECT sum(balance) FROM account").fetchone() or (0,)
        rows = connection.execute("SELECT xid::text FROM transfer").fetchall()
    return total, frozenset(int(xid) for (xid,) in rows)


def targets(story: Story) -> dict[str, tuple[Target, Target]]:
    """Each with the one that says what has to be there."""
    early, late = story.positions
    xid = next(one.xid for one in story.commits if one.lsn > late and one.xid in story.transfers)
    return {
        "latest": (Latest(), Latest()),
        "time before the incremental": (AtTime(story.moments[0]), AtTime(story.moments[0])),
        "time": (AtTime(story.moments[1]), AtTime(story.moments[1])),
        "lsn before the incremental": (AtLsn(early), AtLsn(early)),
        "lsn": (AtLsn(late), AtLsn(late)),
        "xid": (AtXid(xid), AtXid(xid)),
        "name": (AtName("twice"), AtLsn(story.points[1])),
        "the end": (AtLsn(archived(story.site)[-1].end), Latest()),
    }


@pytest.mark.parametrize("name", ["latest", "time before the incremental", "time", "lsn", "xid", "name", "the end"])
def test_exactly_what_was_committed_before_the_target_is_back(story: Story, tmp_path: Path, name: str) -> None:
    target, equal = targets(story)[name]
    recovered = recover_cluster(story.site, "streamflix", target, into=tmp_path / "new")
    total, transfers = bank(recovered, story, tmp_path)
    assert total == TOTAL
    assert transfers == story.before(equal)
    assert recovered.plan.chain[0] == story.base.id
    assert recovered.replayed.timeline == 2
    assert recovered.replayed.last_commit is not None
    assert recovered.replayed.heartbeat is not None
    assert not (tmp_path / "new.pgbackup").exists()


def test_a_bundle_stands_in_for_what_the_archive_lost(story: Story, tmp_path: Path) -> None:
    bundled = Lsn.parse(story.bundle.start_lsn or ""), Lsn.parse(story.bundle.end_lsn or "")
    lost = [one.name for one in archived(story.site) if bundled[0] <= one.start < bundled[1]]
    sidecars = [path for name in lost for path in (story.site.settings.paths.backups / "wal").rglob(f"{name}-*.json")]
    for path in sidecars:
        path.rename(path.with_suffix(".aside"))
    try:
        recovered = recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / "new")
    finally:
        for path in sidecars:
            path.with_suffix(".aside").rename(path)
    assert recovered.plan.bundles == (story.bundle.id,)
    assert bank(recovered, story, tmp_path) == (TOTAL, story.before(Latest()))


# Each moment at which something new is under way; the same recovery is killed at all of them, one after the other.
MOMENTS = (
    "started gpg #2",
    "started tar",
    "started pg_verifybackup",
    "started pg_combinebackup",
    "started pg_waldump",
    "started pg_controldata",
    "started postgres",
    "started pg_controldata #2",  # after the promotion
    "started initdb",
)


SERVER_STARTED = "started postgres #3"  # the others only say their version


def doomed(story: Story, key: KeyPair, **call: str) -> Call:
    return Call(
        folder=str(story.site.settings.paths.backups.parent),
        bin=str(story.source.bin),
        socket=str(story.source.folder),
        port=story.source.port,
        catalog_dsn="",
        key=(str(key.public), str(key.private), str(key.passphrase_file)),
        cluster={},
        **call,
    )


def test_a_killed_recovery_is_gone_on_with(story: Story, key: KeyPair, tmp_path: Path) -> None:
    target = AtLsn(story.positions[1])
    nursery = Nursery()
    call = doomed(story, key, verb="recover", into=str(tmp_path / "new"), lsn=str(target.lsn))
    try:
        for moment in MOMENTS:
            status, trace = nursery.run(call, moment)
            assert (status, trace[-1]) == (-signal.SIGKILL, moment), trace
            assert eventually_nobody(call) == []
            assert not (tmp_path / "new").exists()
    finally:
        nursery.close()
    with pytest.raises(RefusedError, match="unfinished recovery") as refused:
        recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / "new")
    assert "rm -r" in (refused.value.hint or "")
    recovered = recover_cluster(story.site, "streamflix", target, into=tmp_path / "new")
    assert bank(recovered, story, tmp_path) == (TOTAL, story.before(target))
    assert not (tmp_path / "new.pgbackup").exists()


def test_a_server_that_was_killed_just_before_its_promotion_is_not_let_replay_everything(
    story: Story, key: KeyPair, tmp_path: Path
) -> None:
    """It has removed its signal file by then, and would come up behind the target, on the timeline of the source."""
    target = AtLsn(story.positions[0])
    call = doomed(story, key, verb="recover", into=str(tmp_path / "new"), lsn=str(target.lsn))
    nursery = Nursery()
    try:
        nursery.run(call, SERVER_STARTED)
        eventually_nobody(call)
    finally:
        nursery.close()
    data = tmp_path / "new.pgbackup" / "server" / "data"
    server = ThrowAwayServer(data.parent, Programs(story.source.bin), story.site.runner, "postgres", 18)
    configuration = (data / "postgresql.conf").read_text()
    paused = configuration.replace("'promote'", "'shutdown'")
    (data / "postgresql.conf").write_text(paused)
    with pytest.raises(UnavailableError), server.running():
        pass  # it stops at its target
    (data / "postgresql.conf").write_text(configuration)
    (data / "recovery.signal").unlink()
    recovered = recover_cluster(story.site, "streamflix", target, into=tmp_path / "new")
    assert bank(recovered, story, tmp_path) == (TOTAL, story.before(target))


def end(folder: Path) -> None:
    """Stop the server that a recovery has started."""
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_server_is_started_that_keeps_the_sources_configuration(story: Story, tmp_path: Path) -> None:
    """It outlives its maker, listens on loopback only, and reaches neither archive nor standbys."""
    port = free_port()
    story.source.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    recovered = recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / "new", port=port)
    try:
        with psycopg.connect(host=str(recovered.folder), port=port, user="postgres", dbname="bank") as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
                for name in ("listen_addresses", "archive_mode", "max_locks_per_transaction", "data_directory", "fsync")
            }
            connection.execute("INSERT INTO transfer (source, target, amount) VALUES (1, 2, 0)")
    finally:
        end(recovered.folder)
    assert shown == {
        "listen_addresses": "127.0.0.1",
        "archive_mode": "off",
        "max_locks_per_transaction": "256",
        "data_directory": str(recovered.folder),
        "fsync": "off",  # the test's source
    }
    assert "scram-sha-256" in (recovered.folder / "pg_hba.conf").read_text()


def test_a_server_whose_certificate_is_elsewhere_starts_without_tls(
    story: Story, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another machine has the backup, not what the source kept outside its data directory."""
    new = tmp_path / "new"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"does not start on port {port}"):
            recover_cluster(story.site, "streamflix", Latest(), into=new, port=port)
    with (new / "postgresql.conf").open("a") as file:
        file.write(f"ssl = on\nssl_cert_file = '{tmp_path}/gone.crt'\nssl_key_file = '{tmp_path}/gone.key'\n")
    recover_cluster(story.site, "streamflix", Latest(), into=new, port=port)
    try:
        with psycopg.connect(host=str(new), port=port, user="postgres", dbname="bank") as connection:
            assert connection.execute("SHOW ssl").fetchone() == ("off",)
    finally:
        end(new)
    assert f"ssl_cert_file {tmp_path}/gone.crt, ssl_key_file {tmp_path}/gone.key" in caplog.text


@pytest.mark.parametrize("place", ["the directory", "the folder beside it", "a file"])
def test_what_is_not_ours_is_never_touched(story: Story, tmp_path: Path, place: str) -> None:
    into = tmp_path / "new"
    folder = into if place == "the directory" else tmp_path / "new.pgbackup"
    if place == "a file":
        into.write_text("precious")
    else:
        folder.mkdir()
        (folder / "precious").write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(RefusedError):
        recover_cluster(story.site, "streamflix", Latest(), into=into)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_cannot_be_reached_is_refused_before_anything_is_made(story: Story, tmp_path: Path) -> None:
    late = story.moments[1] + timedelta(days=1)
    for target in (AtLsn(Lsn.parse(story.base.start_lsn or "")), AtTime(late), AtXid(1), AtName("never")):
        with pytest.raises(RefusedError, match="can bring back timeline 1 from"):
            recover_cluster(story.site, "streamflix", target, into=tmp_path / "new")
    with pytest.raises(RefusedError, match="timeline 7"):
        recover_cluster(story.site, "streamflix", Latest(), timeline=7, into=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_is_gone_is_never_passed_over(story: Story, tmp_path: Path) -> None:
    """Planning sees the hole; a segment that vanishes after it was planned is missed before replay begins."""
    planned = plan(story.site, "streamflix", Latest(), timeline=None, repository="local")
    lost = Segment.holding(planned.archived[-1].end.minus(1), 1, planned.segment_size)
    [sidecar] = (story.site.settings.paths.backups / "wal").rglob(f"{lost.name}-*.json")
    aside = sidecar.with_name("aside")
    with workplace(tmp_path / "new") as place:
        place.take_up(planned)
    sidecar.rename(aside)
    try:
        with pytest.raises(RefusedError, match=lost.name):
            recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / "new")
    finally:
        aside.rename(sidecar)
    assert not (tmp_path / "new").exists()


def test_the_command_line_plans_refuses_and_recovers_without_a_catalog(story: Story, tmp_path: Path) -> None:
    config = tmp_path / "protocol.yaml"
    config.write_text(yaml.safe_dump(story.site.settings.model_dump(mode="json", exclude_unset=True)))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = [str(Path(sys.executable).with_name("pgbackup")), *words, "--config", str(config)]
        return subprocess.run(program, capture_output=True, text=True, check=False)

    shown = run("plan-recovery", "--to", "latest")
    assert (shown.returncode, story.base.id in shown.stdout, "replay" in shown.stdout) == (0, True, True), shown.stderr
    refused = run("plan-recovery", "--lsn", story.base.start_lsn or "", "--json")
    assert refused.returncode == 1
    assert "can bring back timeline 1 from" in json.loads(refused.stderr)["detail"]
    done = run("recover", "cluster", "--lsn", str(story.positions[1]), "--into", str(tmp_path / "new"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["folder"], document["timeline"], document["port"]) == (str(tmp_path / "new"), 2, None)
    assert Lsn.parse(document["lsn"]) <= story.positions[1]
    again = run("recover", "cluster", "--to", "latest", "--into", str(tmp_path / "new"))
    assert (again.returncode, "not an empty directory" in again.stderr) == (1, True)


@pytest.mark.parametrize("target", ["latest", "lsn"])
def test_a_record_that_cannot_be_read_never_ends_recovery_early(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def damaged(site: Site, planned: RecoveryPlan, *rest: Any, jobs: int) -> None:
        stage_wal(site, planned, *rest, jobs=jobs)
        server = rest[-1]
        middle = Segment.holding(planned.consistent, 1, planned.segment_size).next()
        with (server.data / "pg_wal" / middle.name).open("r+b") as file:
            file.seek(64)  # behind the header: however little the segment holds, its first record is there
            file.write(bytes(1 << 17))

    monkeypatch.setattr("pgbackup.recover.cluster.stage_wal", damaged)
    wanted = Latest() if target == "latest" else AtLsn(story.positions[1])
    with pytest.raises(RefusedError, match="replay ended at" if target == "latest" else "does not reach"):
        recover_cluster(story.site, "streamflix", wanted, into=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def in_the_spool(site: Site) -> list[Path]:
    return list((site.spool / "latest").iterdir())


def stored(site: Site) -> set[Path]:
    """What is in the repository, private scratch left out."""
    found = set(site.settings.paths.backups.rglob("*"))
    return {path for path in found if not path.is_relative_to(site.spool)}


def test_the_newest_moment_is_proved_once_a_day_and_nothing_stays(story: Story) -> None:
    site, before = story.site, stored(story.site)
    newest = archived(site)[-1]
    [data] = (site.settings.paths.backups / "wal").rglob(f"{newest.name}-*.zst.gpg")
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        failed = verify_latest(site, "streamflix")
    finally:
        data.write_bytes(content)
    assert (failed.ok, newest.name in failed.detail, bool(failed.hint)) == (False, True, True)
    assert in_the_spool(site) == []
    [known] = [one for one in site.catalog.watched("streamflix") if one.name == LATEST]
    assert (known.ok, known.detail, known.is_news) == (False, failed.detail, True)
    assert proved_lately(site, "streamflix") is None

    finding = verify_latest(site, "streamflix")
    assert finding.ok
    for text in ("last commit", "newest heartbeat", "before it was tried", story.base.id):
        assert text in finding.detail
    assert Lsn.parse(finding.detail.split()[0]) > archived(site)[-1].start
    proof = proved_lately(site, "streamflix")
    assert proof is not None
    assert (proof.ok, proof.detail) == (True, finding.detail)
    tomorrow = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + timedelta(hours=21))
    assert proved_lately(tomorrow, "streamflix") is None
    assert (in_the_spool(site), stored(site)) == ([], before)


def test_who_cannot_judge_says_nothing_of_the_archive(story: Story, tmp_path: Path) -> None:
    known = story.site.catalog.watched("streamflix")
    (story.site.spool / "latest").mkdir(parents=True, exist_ok=True)
    with workplace(story.site.spool / "latest" / "streamflix"), pytest.raises(BusyError):
        verify_latest(story.site, "streamflix")
    paths = story.site.settings.paths.model_copy(update={"postgres_bin": tmp_path})
    settings = story.site.settings.model_copy(update={"paths": paths})
    with pytest.raises(UnfitError):
        verify_latest(dataclasses.replace(story.site, settings=settings), "streamflix")
    assert story.site.catalog.watched("streamflix") == known
    assert in_the_spool(story.site) == []


def test_what_a_killed_try_left_is_removed_by_the_next(story: Story, key: KeyPair) -> None:
    nursery = Nursery()
    call = doomed(story, key, verb="latest")
    try:
        for moment in ("started pg_verifybackup", SERVER_STARTED):
            status, trace = nursery.run(call, moment)
            assert (status, trace[-1]) == (-signal.SIGKILL, moment), trace
            assert len(in_the_spool(story.site)) == 1
        assert nursery.run(call, None)[0] == 0
    finally:
        nursery.close()
    assert (in_the_spool(story.site), eventually_nobody(call)) == ([], [])


def test_predictions_are_made_from_what_recoveries_measured(story: Story) -> None:
    measured = story.site.catalog.measurements("streamflix", "local")
    assert {one.step for one in measured} == {"fetch", "unpack", "combine", "stage", "replay"}
    rates = learned(measured)
    assert {"unpack", "combine", "stage"} <= set(rates.measured)
    planned = plan(story.site, "streamflix", Latest(), timeline=None, repository="local")
    assert planned.warnings[-1] == str(rates)
    steps = {step.name: step for step in planned.steps}
    assert steps["stage WAL"].seconds == pytest.approx(steps["stage WAL"].bytes / rates.stage)
    silent = PostgresCatalog(lambda: psycopg.connect(host="/nonexistent", autocommit=True))
    without = dataclasses.replace(story.site, catalog=silent)
    planned = plan(without, "streamflix", Latest(), timeline=None, repository="local")
    assert planned.warnings[-1] == "the catalog does not answer: predicted from usual rates"


def test_a_server_that_is_not_fit_is_not_started(story: Story, tmp_path: Path) -> None:
    planned = plan(story.site, "streamflix", Latest(), timeline=None, repository="local")
    [manifest] = [one for one in (story.base, story.incremental) if one.id == planned.chain[-1]]
    server = manifest.server.model_copy(update={"shared_preload_libraries": ("timescaledb",)})
    folder = folder_of(story.site, manifest.id)
    kept = {path: path.read_bytes() for path in (folder / MANIFEST, folder / SUMS)}
    put_manifest(folder, manifest.model_copy(update={"server": server}))
    try:
        with pytest.raises(UnfitError, match="this machine cannot judge"):
            recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / "new")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new.pgbackup" / "server").exists()


def test_a_promotion_is_followed_and_the_history_before_it_can_be_asked_for(story: Story, tmp_path: Path) -> None:
    """The last one: from here on the source is on timeline 2."""
    source = story.source
    source.stop()
    with (source.data / "postgresql.auto.conf").open("a") as file:
        file.write("restore_command = 'false'\n")
    (source.data / "recovery.signal").touch()
    source.start()
    with archiving(story.site, source):
        with Traffic(source, "bank", clients=2):
            time.sleep(0.5)
        close(source, story.site, timeline=2)
    both = transferred(source)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert both > story.transfers
    recovered = recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / "two" / "new")
    assert [one.timeline for one in recovered.plan.wal] == [1, 2]
    assert (recovered.replayed.timeline, bank(recovered, story, tmp_path / "two")) == (3, (TOTAL, both))
    older = recover_cluster(story.site, "streamflix", Latest(), timeline=1, into=tmp_path / "one" / "new")
    assert [one.timeline for one in older.plan.wal] == [1]
    assert (older.replayed.timeline, bank(older, story, tmp_path / "one")) == (3, (TOTAL, story.transfers))


def test_a_tablespace_made_in_the_replayed_wal_is_refused_and_production_not_touched(
    story: Story, tmp_path: Path
) -> None:
    """Whether the WAL is archived or a receiver still has it. The last one: it cannot be replayed here any more."""
    source, folder = story.source, story.source.folder / "live"
    folder.mkdir()

    def refused(name: str) -> None:
        source.execute("CHECKPOINT")
        live = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(UnfitError, match="tablespace"):
            recover_cluster(story.site, "streamflix", Latest(), into=tmp_path / name)
        assert not (tmp_path / name).exists()
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == live

    with archiving(story.site, source):
        source.execute(f"CREATE TABLESPACE live LOCATION '{folder}'")
        source.execute("CREATE TABLE living TABLESPACE live AS SELECT generate_series(1, 1000) AS n", "bank")
        with source.connect("bank") as connection:
            while not connection.execute(
                "SELECT bool_and(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication"
            ).fetchone()[0]:
                time.sleep(0.05)
        source.execute("INSERT INTO living SELECT generate_series(1, 500)", "bank")  # the file and its WAL differ now
        refused("received")
        close(source, story.site, timeline=2)
        refused("archived")

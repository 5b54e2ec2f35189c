"""One region is left: the catalog comes back from it, and then everything else; wherever it is read, it is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests.support.archiving import archiving
from tests.support.copies import Going, keys
from tests.support.faulty import FaultyWay
from tests.support.keys import KeyPair
from tests.support.recovered import reading
from tests.support.s3 import ACCESS, BUCKET, SECRET, Region
from tests.support.site import make_site
from tests.support.source import SAMPLE, Source, write_services
from tests.support.traffic import Traffic

from pgbackup.capture import capture_base, capture_full, capture_incremental, capture_night
from pgbackup.copy import copy_backup, copy_missing, copy_wal, missing_copies
from pgbackup.domain import findings as named
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Content
from pgbackup.domain.model import Backup, CopyState, Finding, State, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.target import AtTime, Latest
from pgbackup.postgres import describe
from pgbackup.recover import (
    RecoveredDatabase,
    backup_choices,
    plan,
    plan_database,
    recover_cluster,
    recover_database,
)
from pgbackup.restore.archive import list_archive
from pgbackup.restore.rebuild import rebuild
from pgbackup.rotate import plan as plan_rotation
from pgbackup.verify import conclude, pending, verify
from pgbackup.verify.attempt import open_attempt
from pgbackup.watch import watch

REGIONS = ("eu", "us", "asia")
CLUSTER = "streamflix"
Contents = Mapping[str, Content]


@dataclass(frozen=True)
class Estate:
    """What three regions hold of a server, and the truth: what was listed, and what was in it at a moment."""

    source: Source
    key: KeyPair
    servers: Mapping[str, Region]
    base: str
    full: str
    incremental: str
    bad: str
    half: str
    retired: str
    listed: Mapping[str, Any]
    moment: datetime
    then: Contents

    def store(self, name: str, *, endpoint: str | None = None) -> Store:
        """A region's repository."""
        return self.servers[name].store(CLUSTER, name=name, endpoint=endpoint, timeout="5s")


def contents(connection: psycopg.Connection[Any]) -> Contents:
    """What a database holds, as backups count it; without the receiver's heartbeat, which goes on every second."""
    own = [one for one in describe.tables(connection) if one.schema_name == "public"]
    return {f"{one.schema_name}.{one.name}": describe.content(connection, one) for one in own}


def listing(backups: tuple[Backup, ...]) -> Mapping[str, Any]:
    """What `list` answers of each backup, but for where it is."""
    return {
        one.id: (one.cluster, one.kind, one.method, one.state, one.parent, one.backup_time, one.finished_at, one.bytes)
        for one in backups
    }


@pytest.fixture(scope="module")
def servers(region: Region) -> Iterator[Mapping[str, Region]]:
    with contextlib.ExitStack() as stack:
        found = {REGIONS[0]: region}
        for name in REGIONS[1:]:
            found[name] = Region()
            stack.callback(found[name].remove)
        yield found


@pytest.fixture(scope="module")
def estate(
    tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source, servers: Mapping[str, Region]
) -> Iterator[Estate]:
    source = Source()
    server.execute("CREATE DATABASE lost_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE bank")
        for name in ("postgres", "bank"):
            source.run_script(SAMPLE / "pgbackup.sql", name)
        source.execute("ALTER SYSTEM SET summarize_wal = on")
        source.execute("SELECT pg_reload_conf()")
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=lost_catalog"
        site = make_site(tmp_path_factory.mktemp("lost"), source, dsn, key)
        both = {**site.settings.clusters, "retired": site.settings.clusters[CLUSTER]}
        site = dataclasses.replace(site, settings=site.settings.model_copy(update={"clusters": both}))
        yield filled(site, Estate(source, key, servers, "", "", "", "", "", "", {}, datetime.now(UTC), {}))
        assert not site.settings.paths.backups.exists()
    finally:
        source.remove()
        server.execute("DROP DATABASE lost_catalog WITH (FORCE)")


def filled(site: Site, empty: Estate) -> Estate:
    """Take backups and WAL, prove some, copy all; the newest one only in part. Then nothing else is left."""
    site = dataclasses.replace(site, repositories={**site.repositories, **{one: empty.store(one) for one in REGIONS}})
    source = empty.source
    with archiving(site, source):
        with Traffic(source, "bank", clients=2):
            base, full = sorted(capture_night(site, CLUSTER), key=lambda one: one.kind)
            time.sleep(0.2)
            incremental = capture_incremental(site, CLUSTER)
            bad = capture_base(site, CLUSTER)
            capture_incremental(site, CLUSTER)
            time.sleep(0.2)
        with source.connect("bank") as connection:
            then = contents(connection)
            [moment] = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
            time.sleep(0.05)
            connection.execute("DELETE FROM transfer")
            [end] = connection.execute("SELECT pg_switch_wal()::text").fetchone() or ("",)
        last = Lsn.parse(end).segment(1, 16 << 20)
        system = base.server.system_identifier
        deadline = time.monotonic() + 60
        while last not in {one.name for one in list_archive(site.local, CLUSTER, system).segments}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for made in (base, full):
        assert verify(site, made.id, "local").verdict is Verdict.VERIFIED
    retired = capture_full(site, "retired")
    copy_to_all(site)
    reject(site, bad.id)
    copy_to_all(site)  # what came to the backups since
    listed = listing(site.catalog.backups())
    half = capture_full(site, CLUSTER)
    for name in REGIONS:
        going = dataclasses.replace(site, repositories={**site.repositories, name: Going(site.repositories[name], 2)})
        with pytest.raises(UnavailableError):
            copy_backup(going, half.id, name)
    shutil.rmtree(site.settings.paths.backups)
    return dataclasses.replace(
        empty,
        base=base.id,
        full=full.id,
        incremental=incremental.id,
        bad=bad.id,
        half=half.id,
        retired=retired.id,
        listed=listed,
        moment=moment.astimezone(UTC),
        then=then,
    )


def reject(site: Site, backup_id: str) -> None:
    """Let a restore test have found that a backup is not what its source was, and with it what stands on it."""
    attempt = open_attempt(site, backup_id, "local")
    findings = (Finding(named.BYTES, True, 1), Finding(named.CONTENT, False, 1, "a row is missing"))
    site.catalog.found(backup_id, repository="local", attempt=attempt.number, step="all", findings=findings)
    assert conclude(site, attempt, findings).verdict is Verdict.REJECTED


def copy_to_all(site: Site) -> None:
    def copy(name: str) -> None:
        for cluster in site.settings.clusters:
            copy_wal(site, cluster, name)
            copy_missing(site, cluster, name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(copy, REGIONS))


Machine = Callable[..., Site]


@pytest.fixture
def machine(estate: Estate, tmp_path: Path, catalog_dsn: str) -> Machine:
    """A new machine: an empty catalog, nothing local, and these regions."""

    def make(*stores: Store) -> Site:
        site = make_site(tmp_path, estate.source, catalog_dsn, estate.key)
        return dataclasses.replace(site, repositories={**site.repositories, **{one.name: one for one in stores}})

    return make


def recovered_contents(estate: Estate, site: Site, into: Path, **options: Any) -> Contents:
    recovered = recover_cluster(site, CLUSTER, AtTime(estate.moment), into=into, **options)
    with reading(recovered, estate.source, "bank") as connection:
        return contents(connection)


# ------------------------------------------------------------------------------- one region alone


@pytest.mark.parametrize("name", REGIONS)
def test_each_region_alone_brings_back_the_catalog_and_the_cluster(
    estate: Estate, machine: Machine, tmp_path: Path, name: str
) -> None:
    site = machine(estate.store(name))
    assert site.catalog.backups() == ()
    for _ in range(2):
        found = rebuild(site, site.repositories[name]).recorded
        assert set(found) == set(estate.listed), "neither the half copy, nor less"
        backups = site.catalog.backups()
        assert listing(backups) == estate.listed
        assert {copy.repository for backup in backups for copy in backup.copies} == {name}
        [proof] = site.catalog.verifications(estate.base)
        assert (proof.repository, proof.verdict, bool(proof.findings)) == ("local", Verdict.VERIFIED, True)
    planned = plan(site, CLUSTER, AtTime(estate.moment), timeline=None, repository=None)
    assert (planned.chain[0], planned.repository) == (estate.base, name), "not the one that is nearer, and rejected"
    assert recovered_contents(estate, site, tmp_path / "new") == estate.then
    assert plan(site, CLUSTER, Latest(), timeline=None, repository=None).repository == name
    assert [choice.value for choice in backup_choices(site, CLUSTER, "bank", None)] == [estate.full]


def test_regions_read_one_after_the_other_are_one_catalog(estate: Estate, machine: Machine) -> None:
    site = machine(*map(estate.store, REGIONS))
    for name in (*REGIONS, REGIONS[0]):
        rebuild(site, site.repositories[name])
    backups = site.catalog.backups()
    assert listing(backups) == estate.listed
    assert {tuple(copy.repository for copy in backup.copies) for backup in backups} == {tuple(sorted(REGIONS))}
    assert len(site.catalog.verifications(estate.base)) == 1


def test_from_a_shell(estate: Estate, tmp_path: Path, catalog_dsn: str) -> None:
    """On a machine with nothing but a configuration and a key."""
    run = shell(estate, tmp_path, catalog_dsn)
    assert json.loads(run("list", "--json")) == []
    rebuilt = run("catalog", "rebuild", "--from", "eu")
    assert f"{len(estate.listed)} backups" in rebuilt
    assert {one["id"]: one["state"] for one in json.loads(run("list", "--json"))} == {
        name: state for name, (_, _, _, state, *_) in estate.listed.items()
    }
    assert json.loads(run("show", estate.base, "--json"))["verifications"][0]["verdict"] == "verified"
    copies = {one["id"]: one for one in json.loads(run("copies", "--json"))["backups"]}
    assert (copies[estate.full]["eu"], copies[estate.full]["local"]) == ("stored", "-")
    moment = estate.moment.isoformat()
    planned = json.loads(run("plan-recovery", "--to", moment, "--json"))
    assert planned["repository"] == "eu"
    assert any("local cannot be used" in one for one in planned["warnings"])
    assert run("plan-recovery", "--to", moment, "--from", "local", status=1) == ""
    done = json.loads(run("recover", "cluster", "--to", moment, "--into", str(tmp_path / "new"), "--json"))
    assert done["folder"] == str(tmp_path / "new")
    database = json.loads(run("recover", "database", "bank", "--as", "bank_again", "--json"))
    assert (database["origin"]["backup_id"], database["origin"]["repository"]) == (estate.full, "eu")
    table = json.loads(run("recover", "table", "bank", "public.transfer", "--to", moment, "--json"))
    assert table["rows"] == estate.then["public.transfer"].rows
    estate.source.execute('DROP DATABASE "bank_again"')


def shell(estate: Estate, folder: Path, catalog_dsn: str) -> Callable[..., str]:
    source = estate.source
    services = {
        CLUSTER: {"host": str(source.folder), "port": source.port, "user": "backup", "dbname": "postgres"},
        "recovery": {"host": str(source.folder), "port": source.port, "user": "postgres", "dbname": "postgres"},
        "catalog": dict(part.split("=") for part in catalog_dsn.split()),
    }
    write_services(folder / "pg_service.conf", services)
    (folder / "aws").write_text(
        f"[profile eu]\nendpoint_url = {estate.servers['eu'].endpoint}\nregion = us-east-1\n"
        f"aws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
    )
    document = {
        "version": 1,
        "paths": {
            "backups": str(folder / "backups"),
            "logs": str(folder / "logs"),
            "service_file": str(folder / "pg_service.conf"),
            "postgres_bin": str(source.bin),
        },
        "repositories": {"eu": {"s3": {"bucket": BUCKET, "prefix": CLUSTER, "profile": "eu"}}},
        "catalog": {"service": "catalog"},
        "encryption": {
            "recipients": [str(estate.key.public)],
            "private_keys": [str(estate.key.private)],
            "passphrase_file": str(estate.key.passphrase_file),
        },
        "clusters": {CLUSTER: {"connection": {"service": CLUSTER}, "recovery_connection": {"service": "recovery"}}},
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(document))
    env = {**os.environ, "PGBACKUP_CONFIG": str(folder / "protocol.yaml"), "AWS_CONFIG_FILE": str(folder / "aws")}

    def run(*arguments: str, status: int = 0) -> str:
        command = [str(Path(sys.executable).with_name("pgbackup")), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout

    return run


# ------------------------------------------------------------------------------- a region that fails meanwhile


@pytest.fixture
def way(estate: Estate) -> Iterator[FaultyWay]:
    """A way to eu on which things go wrong."""
    own = FaultyWay(estate.servers["eu"].port + 3)
    try:
        yield own
    finally:
        own.close()


def test_a_region_that_is_down_is_passed_over_and_named(
    estate: Estate, machine: Machine, way: FaultyWay, tmp_path: Path
) -> None:
    site = machine(estate.store("eu", endpoint=way.endpoint), estate.store("us"))
    way.refusing = True
    planned = plan(site, CLUSTER, AtTime(estate.moment), timeline=None, repository=None)
    assert planned.repository == "us"
    assert any(one.startswith("eu cannot be used: repository eu does not answer") for one in planned.warnings)
    with pytest.raises(UnavailableError, match="repository eu does not answer"):
        recover_cluster(site, CLUSTER, AtTime(estate.moment), into=tmp_path / "new", repository="eu")
    alone = machine(estate.store("eu", endpoint=way.endpoint))
    with pytest.raises(UnavailableError, match="no repository reaches") as refused:
        plan(alone, CLUSTER, AtTime(estate.moment), timeline=None, repository=None)
    assert "eu: repository eu does not answer" in (refused.value.detail or "")
    assert "local: repository local holds no physical backup" in (refused.value.detail or "")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("step", ["fetch_links", "stage_wal"])
def test_a_region_that_goes_down_meanwhile_is_replaced_by_another(
    estate: Estate, machine: Machine, way: FaultyWay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from pgbackup.recover import cluster

    site = machine(estate.store("eu", endpoint=way.endpoint), estate.store("us"))
    original = getattr(cluster, step)

    def going(*arguments: Any, **options: Any) -> Any:
        way.refusing = True
        return original(*arguments, **options)

    monkeypatch.setattr(cluster, step, going)
    assert recovered_contents(estate, site, tmp_path / "new") == estate.then


@dataclass(frozen=True)
class Damaged:
    """A region some of whose objects hold other bytes, or none, when they are read."""

    store: Store
    damaged: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Any]:
        with self.store.open(key) as file:
            yield Flipped(file) if key.endswith(self.damaged) else file


@dataclass
class Flipped:
    file: Any
    flips: bool = True

    def read(self, size: int = -1) -> bytes:
        data = bytearray(self.file.read(size))
        if data and self.flips:
            data[len(data) // 2] ^= 1
            self.flips = False
        return bytes(data)


def test_what_is_damaged_in_one_region_is_read_in_another(estate: Estate, machine: Machine, tmp_path: Path) -> None:
    """The base is damaged here, WAL there: together they are whole. Neither alone is taken for it."""
    eu = Damaged(estate.store("eu"), (f"{estate.base}/base.tar.zst.gpg", ".tar.gpg"))
    segments = tuple(key for key in keys(estate.store("us"), "wal/") if key.endswith(".zst.gpg"))
    us = Damaged(estate.store("us"), (f"{estate.incremental}/base.tar.zst.gpg", *segments))
    for name, reason in (("eu", "does not"), ("us", "does not|damaged")):
        with pytest.raises(RefusedError, match=reason):
            recover_cluster(
                machine(eu, us), CLUSTER, AtTime(estate.moment), into=tmp_path / f"of {name}", repository=name
            )
        assert not (tmp_path / f"of {name}").exists()
        shutil.rmtree(tmp_path / f"of {name}.pgbackup")
    assert recovered_contents(estate, machine(us, eu), tmp_path / "new") == estate.then


def test_a_dump_that_is_damaged_in_one_region_is_read_in_another(estate: Estate, machine: Machine) -> None:
    eu = Damaged(estate.store("eu"), (f"{estate.full}/bank.dump.gpg",))
    site = machine(eu, estate.store("us"))
    planned = plan_database(site, CLUSTER, "bank", repository="eu", name="of_eu")
    with pytest.raises(RefusedError, match="does not"):
        recover_database(site, planned)
    recovered: RecoveredDatabase = recover_database(site, plan_database(site, CLUSTER, "bank", name="of_any"))
    assert recovered.ok
    estate.source.execute("DROP DATABASE of_any")


# ------------------------------------------------------------------------------- the nights after it


@pytest.mark.parametrize("remembered", [False, True], ids=["with a new catalog", "with the old catalog"])
def test_the_nights_go_on_after_it(estate: Estate, machine: Machine, remembered: bool) -> None:
    """The local repository is empty: a new base is taken, and nothing that only a region holds is in anybody's way."""
    site = machine(estate.store("eu"), estate.store("us"))
    rebuild(site, site.repositories["eu"])
    if remembered:
        for backup in site.catalog.backups():
            site.catalog.copied(backup.id, repository="local", now=site.clock())
    with archiving(site, estate.source):
        following = capture_incremental(site, CLUSTER)
        assert (following.kind, following.parent) == ("base", None), "its parent is not here"
        night = capture_night(site, CLUSTER)
    new = {following.id, *(one.id for one in night)}
    assert {one.id for one in missing_copies(site, CLUSTER, "eu")} == new
    assert new | {estate.base} <= {one.id for one in missing_copies(site, CLUSTER, "us")}
    for name in ("eu", "us"):
        copy_wal(site, CLUSTER, name)
        copy_missing(site, CLUSTER, name)
        assert missing_copies(site, CLUSTER, name) == ()
    for name in ("eu", "us") if remembered else site.repositories:
        rotation = plan_rotation(site, CLUSTER, name)
        assert (rotation.going, rotation.problems) == ((), ())
    if remembered:
        with pytest.raises(RefusedError, match="local does not show"):
            plan_rotation(site, CLUSTER, "local")
        assert verify(site, estate.base, "local").verdict is Verdict.REJECTED
    assert {name for _, name in pending(site, CLUSTER)} <= set(site.repositories)
    watch(site, CLUSTER)
    known = {one.id: one.state for one in site.catalog.backups(CLUSTER)}
    assert known[estate.base] is (State.CAPTURED if remembered else State.VERIFIED), "it is proved again: not rejected"
    assert known[following.id] is State.CAPTURED
    held = {copy.repository: copy.state for copy in site.catalog.copies(estate.base)}
    lost = {"local": CopyState.DAMAGED} if remembered else {}
    assert held == {"eu": CopyState.STORED, "us": CopyState.STORED, **lost}

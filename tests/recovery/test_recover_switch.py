"""A recovered cluster takes production's place: all of it, nothing else, wherever the switch is interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests.support.archiving import archiving
from tests.support.doomed import Call, Nursery
from tests.support.keys import KeyPair
from tests.support.receiver import Receiver, check_archive, eventually, is_sealed_to_now, receiving
from tests.support.site import make_site, with_settings
from tests.support.source import SAMPLE, Source
from tests.support.traffic import TOTAL, Traffic

from pgbackup.capture import capture_base
from pgbackup.domain.errors import ConfigurationError, ProgramFailed, RefusedError, UnavailableError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Control
from pgbackup.domain.target import AtLsn
from pgbackup.postgres import replication
from pgbackup.postgres.programs import Programs
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover import (
    SwitchPlan,
    list_old,
    plan_switch,
    recover_cluster,
    refuse_obstacle,
    switch_over,
    usual_folder,
)
from pgbackup.recover.control import works_in
from pgbackup.wal import wal_status


@dataclass(frozen=True)
class Bank:
    """A source that was busy, and what it was at ``target``: recovered in ``folder``."""

    source: Source
    site: Site
    key: KeyPair
    target: AtLsn
    transfers: frozenset[int]
    folder: Path

    def is_recovered(self) -> bool:
        """Whether exactly what was committed before the target is there."""
        return balance(self.source) == (TOTAL, self.transfers)

    def state(self) -> set[str]:
        """The folders beside the data directory."""
        return {path.name for path in self.source.folder.iterdir() if path.is_dir()}

    def reset(self) -> None:
        """Make everything as it was before any test."""
        end_server(self.source)
        for path in self.source.folder.iterdir():
            if not path.name.startswith("pristine"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("data", self.folder.name):
            copy(self.source.folder / f"pristine.{name}", self.source.folder / name)


def copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "--archive", "--reflink=auto", str(folder), str(to)], check=True)


def end_server(source: Source) -> None:
    """End the server, whoever started it."""
    source.stop(signal.SIGQUIT)
    for folder in source.folder.iterdir():
        if works_in(folder):
            os.kill(int((folder / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
            eventually(lambda folder=folder: not works_in(folder))


def balance(source: Source) -> tuple[int, frozenset[int]]:
    with source.connect("bank") as connection:
        [total] = connection.execute("SELECT sum(balance) FROM account").fetchone() or (0,)
        rows = connection.execute("SELECT id FROM transfer").fetchall()
    return total, frozenset(number for (number,) in rows)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Bank]:
    source = Source()
    server.execute("CREATE DATABASE switch_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE bank")
        for name in ("postgres", "bank"):
            source.run_script(SAMPLE / "pgbackup.sql", name)
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=switch_catalog"
        control = {"data_directory": str(source.data)}
        checks = {
            "application_role": "app",
            "queries": [{"database": "bank", "sql": "SELECT count(*) FROM account", "within": "1min"}],
        }
        site = make_site(tmp_path_factory.mktemp("switch"), source, dsn, key, control=control, verify_backup=checks)
        yield tell(source, site, key)
    finally:
        end_server(source)
        source.remove()
        server.execute("DROP DATABASE switch_catalog WITH (FORCE)")


def tell(source: Source, site: Site, key: KeyPair) -> Bank:
    with archiving(site, source):
        capture_base(site, "streamflix")
        with Traffic(source, "bank", clients=3):
            source.execute("GRANT SELECT ON account TO app", "bank")
            time.sleep(0.3)
        _, transfers = balance(source)
        source.execute("BEGIN; CREATE TABLE decision (); PREPARE TRANSACTION 'undecided'", "bank")
        with source.connect("bank") as connection:
            [lsn] = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        with Traffic(source, "bank", clients=3):
            time.sleep(0.3)
        eventually(is_sealed_to_now(site, source))
    target, folder = AtLsn(Lsn.parse(lsn)), source.folder / "new"
    recover_cluster(site, "streamflix", target, into=folder)
    source.execute("SELECT pg_create_physical_replication_slot('standby')")
    source.execute("CREATE SUBSCRIPTION news CONNECTION '' PUBLICATION all_news WITH (connect = false)", "bank")
    source.execute("ALTER SYSTEM SET work_mem = '5MB'")  # younger than every backup
    source.stop()
    for name in ("data", "new"):
        copy(source.folder / name, source.folder / f"pristine.{name}")
    return Bank(source, site, key, target, transfers, folder)


@pytest.fixture
def bank(history: Bank, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bank]:
    """Production runs, and the recovered directory lies beside; nobody receives."""
    monkeypatch.setattr("pgbackup.recover.present._PATIENCE", 0.0)
    history.reset()
    history.source.start()
    yield history
    end_server(history.source)


def shown(source: Source, name: str) -> str:
    with source.connect("postgres") as connection:
        return str(connection.execute(f"SHOW {name}").fetchone()[0])  # type: ignore[index]


@contextlib.contextmanager
def first_write(bank: Bank) -> Iterator[list[tuple[int, bool]]]:
    """Try to write all the time; what is written to the new server says whether the receiver's slot was there."""
    found: list[tuple[int, bool]] = []
    over = threading.Event()

    def write() -> None:
        while not (over.is_set() or found):
            with (
                contextlib.suppress(psycopg.Error),
                bank.source.connect("bank") as connection,
                connection.transaction(),
            ):
                connection.execute("CREATE TABLE IF NOT EXISTS written (moment timestamptz)")
                timeline = replication.position(connection).timeline
                if timeline > 1:
                    found.append((timeline, replication.slot(connection, "pgbackup") is not None))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def test_production_is_replaced_by_what_was_recovered(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody works on: clients, the receiver, on the new timeline; the old directory is kept as it was."""
    monkeypatch.undo()  # the archive gets the present state
    source, site = bank.source, bank.site
    late = balance(source)[1]
    assert late > bank.transfers
    receiver = Receiver(site.settings.paths.backups.parent, source, bank.key)
    with receiving(receiver), source.connect("bank") as client:
        eventually(lambda: receiver.process is not None and slot_is_used(source))
        plan = plan_switch(site, "streamflix", bank.folder)
        assert (plan.alive, plan.begun, plan.sessions, plan.collations) == (True, False, 1, ())
        assert plan.before is not None
        for left in (
            "prepared transaction undecided",
            "replication slot standby",
            "subscription news of database bank",
        ):
            assert any(note.startswith(left) for note in plan.notes), plan.notes
        with source.connect("postgres") as connection:
            end = replication.position(connection).insert
        with first_write(bank) as written:
            done = switch_over(site, plan)
            eventually(lambda: written)
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
        assert written == [(2, True)]
        assert done.ok
        assert {finding.name for finding in done.findings} >= {"application role connects: bank"}
        for note in ("pgbackup backup base", "prepared transaction 'undecided' waits"):
            assert any(note in one for one in done.notes), done.notes
        assert bank.is_recovered()
        assert shown(source, "work_mem") == "5MB"
        assert shown(source, "default_transaction_read_only") == "off"
        assert shown(source, "listen_addresses") == "127.0.0.1"
        if receiver.process is not None and receiver.process.poll() is not None:  # it met the server without a slot
            receiver.end()
            receiver.start()
        eventually(lambda: slot_is_used(source))
        eventually(is_sealed_to_now(site, source))
    (tmp_path / "wal").mkdir()
    archived = check_archive(site, source, tmp_path / "wal")
    assert {stretch.timeline for stretch in archived.stretches} == {1, 2}
    assert max(one.end for one in archived.stretches if one.timeline == 1) >= end  # what was left is archived, too
    assert not any(wal_status(site, "streamflix").gaps.values())
    assert bank.state() == {"data", plan.before.name, "pristine.data", "pristine.new"}
    [old] = [one for _, one in list_old(site, "streamflix") if one.name == str(plan.before)]
    assert (old.drop, old.bytes > 0) == (f"rm -r {plan.before}", True)
    assert capture_base(site, "streamflix").server.timeline == 2
    undo(done.undo)
    assert balance(source) == (TOTAL, late)
    source.execute("CREATE TABLE writable ()", "bank")


def slot_is_used(source: Source) -> bool:
    with source.connect("postgres") as connection:
        slot = replication.slot(connection, "pgbackup")
    return slot is not None and slot.active


def undo(commands: tuple[str, ...]) -> None:
    for command in commands:
        subprocess.run(["sh", "-c", command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


# In the order in which they come, so that each run goes on where the one before died.
BEFORE_THE_RENAMING = ("after forbid_writes", "after end_clients", "started pg_ctl", "after let_write")
RENAMED = ("after set_aside", "after take_configuration")
IN_PLACE = ("after put_in_place", "started pg_ctl", "before create_slot", "after create_slot", "before allow_writes")
OPEN = ("after allow_writes",)


def test_killed_at_any_step_it_is_repeated_to_the_same_end(bank: Bank) -> None:
    source, site = bank.source, bank.site
    late = balance(source)
    call = Call(
        verb="switch",
        folder=str(site.settings.paths.backups.parent),
        bin=str(source.bin),
        socket=str(source.folder),
        port=source.port,
        catalog_dsn="",
        key=(str(bank.key.public), str(bank.key.private), str(bank.key.passphrase_file)),
        cluster={"control": {"data_directory": str(source.data)}},
        into=str(bank.folder),
    )
    nursery = Nursery()

    def killed(moment: str) -> set[str]:
        status, trace = nursery.run(call, moment)
        assert (status, trace[-1]) == (-signal.SIGKILL, moment), trace
        return bank.state() - {"pristine.data", "pristine.new"}

    try:
        with archiving(site, source):
            for moment in BEFORE_THE_RENAMING:
                assert killed(moment) == {"data", "new"}
                with pytest.raises(RefusedError, match="was begun"):
                    plan_switch(site, "streamflix", source.folder / "pristine.new")
        for moment in RENAMED:
            before, new = sorted(killed(moment))
            assert (before.startswith("data.before_"), new) == (True, "new")
        for moment in IN_PLACE:
            assert killed(moment) == {"data", before}
            plan = plan_switch(site, "streamflix", bank.folder)
            assert (plan.begun, plan.before) == (True, source.folder / before)
            if works_in(source.data):
                eventually(lambda: answers(source))
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    source.execute("CREATE TABLE early ()", "bank")
        for moment in OPEN:
            assert killed(moment) == {"data", before}
    finally:
        nursery.close()
    done = switch_over(site, plan_switch(site, "streamflix", bank.folder))
    assert (done.ok, bank.is_recovered(), shown(source, "default_transaction_read_only")) == (True, True, "off")
    assert bank.state() == {"data", before, "pristine.data", "pristine.new"}
    with pytest.raises(RefusedError):
        plan_switch(site, "streamflix", bank.folder)
    undo(done.undo)
    assert balance(source) == late


def answers(source: Source) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        source.connect("postgres").close()
        return True
    return False


@pytest.mark.parametrize("left", ["all", "nothing"])
def test_a_dead_production_server_is_replaced(bank: Bank, left: str) -> None:
    """Killed, with a stale postmaster.pid; or the whole directory gone."""
    os.kill(int((bank.source.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    bank.source.stop()
    eventually(lambda: not works_in(bank.source.data))
    if left == "nothing":
        shutil.rmtree(bank.source.data)
        with (bank.folder / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{bank.source.folder}'\n")
    plan = plan_switch(bank.site, "streamflix", bank.folder)
    assert (plan.alive, plan.sessions, plan.before is None) == (False, 0, left == "nothing")
    done = switch_over(bank.site, plan)
    assert (done.ok, bank.is_recovered(), bool(done.undo)) == (True, True, left == "all")
    bank.source.execute("CREATE TABLE writable ()", "bank")


def with_control(bank: Bank, **control: Any) -> Site:
    return with_settings(bank.site, control=Control(**{"data_directory": bank.source.data, **control}))


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def unfinished(folder: Path, source: Source) -> None:
    folder.with_name(f"{folder.name}.pgbackup").mkdir()


def not_recovered(folder: Path, source: Source) -> None:
    copy(source.data / "postgresql.auto.conf", folder / "postgresql.auto.conf")


def of_another_system(folder: Path, source: Source) -> None:
    kept = (folder / "postgresql.auto.conf").read_text()
    shutil.rmtree(folder)
    source._run("initdb", "-D", str(folder), "--no-sync", "-U", "postgres")
    (folder / "postgresql.auto.conf").write_text(kept)


def of_another_owner(folder: Path, source: Source) -> None:
    os.chown(folder, 4242, 4242)


def of_another_version(folder: Path, source: Source) -> None:
    (source.data / "PG_VERSION").write_text("17\n")


def not_stopped(folder: Path, source: Source) -> None:
    copy(source.data / "global" / "pg_control", folder / "global" / "pg_control")


def emptied(folder: Path, source: Source) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


SPOILED = {
    emptied: "no recovered cluster",
    not_recovered: "no recovered cluster",
    not_stopped: "not stopped cleanly",
    of_another_system: "is not of streamflix",
    of_another_owner: "another user",
    of_another_version: "another major version",
    unfinished: "not finished",
}


def test_a_folder_that_could_never_take_the_place_is_refused_before_anything_is_recovered(
    bank: Bank, tmp_path: Path
) -> None:
    site, beside = bank.site, bank.source.folder / "wanted"
    refuse_obstacle(site, "streamflix", beside)
    refuse_obstacle(site, "streamflix", usual_folder(site, "streamflix", "20260131_020000"))
    (link := tmp_path / "data").symlink_to(bank.source.data)
    linked = with_settings(site, control=Control(data_directory=link))
    assert usual_folder(linked, "streamflix", "1").parent == bank.source.folder, "a rename is made where the link leads"
    uncontrolled = with_settings(site, control=None)
    for one, into in ((site, Path("/proc/wanted")), (site, bank.source.data / "wanted"), (uncontrolled, beside)):
        with pytest.raises(RefusedError, match="could not replace streamflix"):
            refuse_obstacle(one, "streamflix", into)
    assert usual_folder(uncontrolled, "streamflix", "1").parent == site.settings.paths.recovered_folder


def test_what_cannot_take_the_place_is_refused_and_nothing_is_touched(bank: Bank, tmp_path: Path) -> None:
    source, site = bank.source, bank.site
    for number, (spoil, message) in enumerate(SPOILED.items()):
        if spoil is of_another_owner and os.geteuid() != 0:
            continue
        folder = source.folder / f"spoiled{number}"
        copy(source.folder / "pristine.new", folder)
        spoil(folder, source)
        before = snapshot(folder)
        with pytest.raises(RefusedError, match=message):
            plan_switch(site, "streamflix", folder)
        assert snapshot(folder) == before
        (source.data / "PG_VERSION").write_text("18\n")
    server = ThrowAwayServer(tmp_path, Programs(source.bin), site.runner, "postgres", 18)
    (tmp_path / "data").symlink_to(bank.folder)
    with server.running(), pytest.raises(RefusedError, match="a server runs in"):
        plan_switch(site, "streamflix", bank.folder)
    for data in (source.folder / "pristine.data", source.folder / "data" / "base", tmp_path):
        with pytest.raises(RefusedError):
            plan_switch(with_control(bank, data_directory=data), "streamflix", bank.folder)
    with pytest.raises(ConfigurationError, match="is not configured"):
        plan_switch(with_settings(site, control=None), "streamflix", bank.folder)
    planned = plan_switch(site, "streamflix", bank.folder)
    shutil.rmtree(bank.folder)
    with pytest.raises(RefusedError, match="no recovered cluster"):
        switch_over(site, planned)
    assert shown(source, "default_transaction_read_only") == "off"
    assert not list(source.folder.glob("data.*"))


def test_a_stop_command_that_fails_leaves_production_as_it_was(bank: Bank) -> None:
    site = with_control(bank, stop=("false",), start=("false",))
    before = balance(bank.source)
    with pytest.raises(ProgramFailed):
        switch_over(site, plan_switch(site, "streamflix", bank.folder))
    bank.source.execute("CREATE TABLE writable ()", "bank")
    assert balance(bank.source) == before
    assert bank.state() == {"data", "new", "pristine.data", "pristine.new"}
    assert not list(bank.source.folder.glob("data.*"))
    assert switch_over(bank.site, plan_switch(bank.site, "streamflix", bank.folder)).ok


def test_an_error_behind_the_stop_starts_production_again(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    before = balance(bank.source)

    def refused(plan: SwitchPlan) -> None:
        raise RefusedError("it is a mount point")

    with monkeypatch.context() as patched:
        patched.setattr("pgbackup.recover.switching.put_in_place", refused)
        with pytest.raises(RefusedError, match="mount point"):
            switch_over(bank.site, plan_switch(bank.site, "streamflix", bank.folder))
    bank.source.execute("CREATE TABLE writable ()", "bank")
    assert balance(bank.source) == before
    assert bank.state() == {"data", "new", "pristine.data", "pristine.new"}
    switch_over(bank.site, plan_switch(bank.site, "streamflix", bank.folder))
    assert bank.is_recovered()


def test_what_fails_behind_the_renaming_says_how_to_go_on_and_how_to_undo(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start command that fails; then collations of another version, which only --reindex passes, read only."""
    before = balance(bank.source)
    stop = ("sh", "-c", f"kill -INT $(head -n 1 {bank.source.data}/postmaster.pid)")
    site = with_control(bank, stop=stop, start=("sh", "-c", "echo no room >&2; exit 3"))
    with pytest.raises(UnavailableError, match="does not start") as failed:
        switch_over(site, plan_switch(site, "streamflix", bank.folder))
    assert "no room" in (failed.value.detail or "")
    for word in ("repeat the command", "mv -T", f"{bank.source.data}.before_"):
        assert word in (failed.value.hint or "")
    assert not works_in(bank.source.data)

    with monkeypatch.context() as patched:
        patched.setattr("pgbackup.postgres.describe.other_collations", lambda _connection: ("recorded 1, here 2",))
        plan = plan_switch(bank.site, "streamflix", bank.folder)
        assert plan.begun
        with pytest.raises(RefusedError, match="another version of a collation") as refused:
            switch_over(bank.site, plan)
        assert bank.is_recovered()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            bank.source.execute("CREATE TABLE early ()", "bank")
        bank.source.execute("ROLLBACK PREPARED 'undecided'", "bank")  # before 16 it keeps catalogs from a REINDEX
        done = switch_over(bank.site, plan, reindex=True)
    bank.source.execute("CREATE TABLE writable ()", "bank")
    assert (done.ok, bank.is_recovered()) == (True, True)
    assert (refused.value.hint or "").startswith("say --reindex; then repeat")
    undo(done.undo)
    assert balance(bank.source) == before


def test_the_command_line_asks_for_the_clusters_name(bank: Bank, tmp_path: Path) -> None:
    services, config = tmp_path / "pg_service.conf", tmp_path / "protocol.yaml"
    sections = {"streamflix": "backup", "recovery": "postgres"}
    services.write_text(
        "".join(
            f"[{name}]\nhost={bank.source.folder}\nport={bank.source.port}\nuser={user}\ndbname=postgres\n"
            for name, user in sections.items()
        )
    )
    document = bank.site.settings.model_dump(mode="json", exclude_unset=True)
    document["paths"]["service_file"] = str(services)
    document["clusters"]["streamflix"]["recovery_connection"] = {"service": "recovery"}
    document["clusters"]["streamflix"]["verify_backup"].pop("queries")
    config.write_text(yaml.safe_dump(document))
    program = [str(Path(sys.executable).with_name("pgbackup")), "recover", "switch", str(bank.folder)]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words, "--config", str(config)], capture_output=True, text=True, check=False)

    asked = run()
    assert asked.returncode == 2
    assert "--yes-replace streamflix" in asked.stderr
    assert f"{bank.folder} becomes {bank.source.data}" in asked.stdout.replace("\n", " ")
    assert shown(bank.source, "default_transaction_read_only") == "off"
    bank.source.stop()
    done = run("--yes-replace", "streamflix", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["timeline"], Path(document["before"]).parent) == (2, bank.source.folder)
    assert bank.is_recovered()

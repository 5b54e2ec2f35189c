"""What a crash loses, and what keeping that small costs the server: pgbench, the receiver, kill -9."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from bench.archive import receiving
from bench.stage import SOURCE, Stage
from bench.table import Rounds
from pgbackup.assembly import build_site, load_settings, service_parameters
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.wal import is_segment
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.archive import fetch_wal, list_archive
from pgbackup.stream import Processes
from pgbackup.wal.receive import RECEIVER_NAME

CLIENTS = 8
_COMMIT = re.compile(r"tx: +(\d+), .*desc: COMMIT ")
_ALONE = "receiving alone: pg_receivewal --synchronous, same disk"
_ELSEWHERE = "receiving alone, into memory: no fsync shares the server's disk"
_SEALED = "`pgbackup wal receive`: and sealing, on the same cores"
_SAFE = "the same, and the server waits for it (RPO 0)"


@dataclass
class Crash:
    """A server of its own that is killed again and again."""

    stage: Stage
    server: ThrowAwayServer
    config: Path


class Witness(threading.Thread):
    """A client that notes each commit that was acknowledged, and when."""

    def __init__(self, parameters: ConnectionParameters) -> None:
        super().__init__()
        self.parameters = parameters
        self.acknowledged: list[tuple[int, float]] = []

    def run(self) -> None:
        """Commit until the server is gone."""
        try:
            with psycopg.connect(**self.parameters.keywords, autocommit=True) as connection:
                while True:
                    row = connection.execute("INSERT INTO witness DEFAULT VALUES RETURNING pg_current_xact_id()::text")
                    self.acknowledged.append((int(row.fetchall()[0][0]), time.monotonic()))
        except psycopg.Error:
            return


def measure_throughput(stage: Stage, *, rounds: int, seconds: int) -> list[str]:
    """Measure what the receiver costs pgbench."""
    table = Rounds("pgbench", "no receiver", unit="transactions/s", goals={_ALONE: "≥ 0.95", _ELSEWHERE: "≥ 0.95"})
    with crashing(stage) as crash:
        for _ in range(rounds):
            for name in ("no receiver", _ALONE, _ELSEWHERE, _SEALED, _SAFE):
                with running(crash, synchronous=name == _SAFE) as parameters, _receiver(crash, name, parameters):
                    table.note(name, _pgbench(crash, parameters, seconds))
    return table.lines()


def measure_losses(stage: Stage, *, kills: int) -> list[str]:
    """Kill the server under load, and compare the receiver's disk with what a client was told."""
    lines = [
        "| killed under load | kills | acknowledged commits | lost | RPO, median | RPO, worst |",
        "|---|---|---|---|---|---|",
    ]
    with crashing(stage) as crash:
        for name, synchronous in (("receiver", False), ("receiver, the server waits for it", True)):
            losses = [_lost(crash, synchronous=synchronous) for _ in range(kills)]
            told = sum(count for count, _, _ in losses)
            lost = sum(count for _, count, _ in losses)
            windows = [window * 1000 for _, _, window in losses]
            lines.append(
                f"| {name} | {kills} | {told} | {lost} | {statistics.median(windows):.1f} ms | {max(windows):.1f} ms |"
            )
            print(lines[-1], flush=True)
    return [*lines, ""]


@contextmanager
def crashing(stage: Stage) -> Iterator[Crash]:
    """Prepare a server with pgbench's tables and a configuration for it."""
    folder = stage.folder / "crash"
    folder.mkdir()
    (folder / "keys").symlink_to(stage.folder / "keys")
    runner = Processes()
    server = ThrowAwayServer(folder / "server", stage.server.programs, runner, "postgres", stage.server.major, SOURCE)
    server.create()
    with (server.data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
        rules.write("local replication all trust\n")
    crash = Crash(replace(stage, folder=folder), server, folder)
    try:
        with server.running() as parameters:
            _pgbench(crash, parameters, 0, "--initialize", "--scale=20", "--quiet")
            with psycopg.connect(**parameters.keywords, autocommit=True) as connection:
                connection.execute("CREATE TABLE witness (id bigint GENERATED ALWAYS AS IDENTITY)")
        yield crash
    finally:
        runner.terminate()
        shutil.rmtree(folder)


@contextmanager
def running(crash: Crash, *, synchronous: bool) -> Iterator[ConnectionParameters]:
    """Run the server, which may wait for the receiver; the receiver begins anew."""
    with crash.server.running() as parameters:
        shutil.rmtree(crash.stage.folder / "backups", ignore_errors=True)
        here = replace(crash.stage, source=parameters)
        crash.config = here.configure(encrypted=True)
        with psycopg.connect(**parameters.keywords, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{RECEIVER_NAME if synchronous else ''}'")
            connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
            connection.execute("CHECKPOINT")
            connection.execute("SELECT pg_create_physical_replication_slot('pgbackup', true)")
        yield parameters


@contextmanager
def _receiver(crash: Crash, name: str, parameters: ConnectionParameters) -> Iterator[None]:
    """Run what a row of the table is about, and wait until it streams."""
    places = {_ALONE: crash.stage.folder, _ELSEWHERE: Path("/dev/shm")}  # noqa: S108 - a folder of its own in it
    alone = _receivewal(crash, parameters, places[name]) if name in places else nullcontext()
    sealed = receiving(crash.config, crash.stage.folder / "log") if name in {_SEALED, _SAFE} else nullcontext()
    with ExitStack() as stack:
        stack.enter_context(alone)
        stack.enter_context(sealed)
        if name != "no receiver":
            wait_for_stream(parameters)
        with psycopg.connect(**parameters.keywords, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        yield
        with psycopg.connect(**parameters.keywords, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def _receivewal(crash: Crash, parameters: ConnectionParameters, place: Path) -> Iterator[None]:
    folder = Path(tempfile.mkdtemp(prefix="pgbench-", dir=place))
    where = " ".join(f"{key}={value}" for key, value in parameters.keywords.items())
    program = crash.server.programs.folder / "pg_receivewal"
    argv = [str(program), f"--directory={folder}", "--slot=pgbackup", "--synchronous", "--no-loop", f"--dbname={where}"]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def wait_for_stream(parameters: ConnectionParameters) -> None:
    """Wait until somebody streams."""
    with psycopg.connect(**parameters.keywords, autocommit=True) as connection:
        while not connection.execute("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").fetchall()[
            0
        ][0]:
            time.sleep(0.05)


def _pgbench(crash: Crash, parameters: ConnectionParameters, seconds: int, *options: str) -> float:
    process = start_pgbench(crash, parameters, seconds, *options)
    output, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"pgbench failed: {errors}")
    found = re.search(r"tps = ([\d.]+) \(without", output)
    return float(found[1]) if found else 0.0


def start_pgbench(crash: Crash, parameters: ConnectionParameters, seconds: int, *options: str) -> subprocess.Popen[str]:
    """Start pgbench: its own transaction, prepared, without think time."""
    keywords = parameters.keywords
    load = ("--no-vacuum", f"--client={CLIENTS}", "--jobs=2", "--protocol=prepared", f"--time={seconds}")
    argv = [str(crash.server.programs.folder / "pgbench"), "-h", keywords["host"], "-p", keywords["port"]]
    argv += ["-U", keywords["user"], *(options or load), keywords["dbname"]]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _lost(crash: Crash, *, synchronous: bool) -> tuple[int, int, float]:
    """Kill the server; return how many commits a client was told of, how many of them the disk lacks, and since when.

    pg_receivewal is stopped first, so that nothing under way arrives: the network goes with the server.
    """
    with (
        running(crash, synchronous=synchronous) as parameters,
        receiving(crash.config, crash.stage.folder / "log") as ours,
    ):
        wait_for_stream(parameters)
        with psycopg.connect(**parameters.keywords, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        witness = Witness(parameters)
        witness.start()
        pgbench = start_pgbench(crash, parameters, 60)
        time.sleep(random.uniform(2, 4))  # noqa: S311 - not a secret
        [receiver] = (int(pid) for pid in Path(f"/proc/{ours.pid}/task/{ours.pid}/children").read_text().split())
        os.kill(receiver, signal.SIGSTOP)
        os.kill(int((crash.server.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        killed = time.monotonic()
        for pid in (receiver, ours.pid):
            os.kill(pid, signal.SIGKILL)
        ours.wait()
        witness.join()
        pgbench.communicate()
        _wait_for_orphans(crash.server.data)
    there = _commits_on_disk(crash)
    missing = [moment for xid, moment in witness.acknowledged if xid not in there]
    ended = max([killed, *(moment for _, moment in witness.acknowledged)])
    return len(witness.acknowledged), len(missing), ended - min(missing, default=ended)


def _commits_on_disk(crash: Crash) -> set[int]:
    """Return the transactions whose commit is in what was sealed or lies in the receiver's folder."""
    site = build_site(load_settings(crash.config), service_parameters, owner="bench")
    [received] = (crash.stage.folder / "backups" / ".received" / "bench").glob("[0-9]*")
    folder = crash.stage.folder / "found"
    with site.keyring.opened() as unlock:
        listing = list_archive(site.local, "bench", received.name)
        fetch_wal(site, site.local, list(listing.segments.values()), folder, unlock, jobs=2)
    for path in received.iterdir():
        name = path.name.removesuffix(".partial")
        if is_segment(name) and path.stat().st_size:
            shutil.copy(path, folder / name)
    first = min(path for path in folder.iterdir() if is_segment(path.name))
    program = crash.server.programs.folder / "pg_waldump"
    argv = [
        str(program),
        "--rmgr=Transaction",
        f"--path={folder}",
        first.name,
        max(path.name for path in folder.iterdir()),
    ]
    found = subprocess.run(
        argv, capture_output=True, text=True, check=False
    )  # it ends with an error where the WAL ends
    shutil.rmtree(folder)
    return {int(xid) for xid in _COMMIT.findall(found.stdout)}


def _wait_for_orphans(data: Path) -> None:
    """Wait until the dead server's processes have noticed."""
    while any(_works_in(process, data) for process in Path("/proc").glob("[0-9]*")):
        time.sleep(0.05)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return process.joinpath("cwd").resolve(strict=True) == folder.resolve()
    except OSError:
        return False

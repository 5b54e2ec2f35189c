"""The physical chain against pgBackRest and Barman: base, incremental, recovery, WAL archiving, what a crash loses.

    python -m bench.physical [--scale 5] [--rounds 3] [--majors 15 18]

Writes its tables into bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg

from bench.archive import Ours, end_server, segments_of
from bench.load import Load
from bench.peers import Peer, missing, opened, size_of
from bench.rpo import measure_losses, measure_throughput
from bench.stage import SOURCE, Stage, machine, pgbackup, stage, write_table
from bench.table import Rounds
from pgbackup.postgres.throwaway import living_on

GIB = 1 << 30
SERVER = {**SOURCE, "wal_keep_size": "1200MB", "max_replication_slots": "10"}
BASE, PROVED = "ours, GPG", "ours, GPG, and the fingerprints of every table"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=5, help="size of the sample: 1 is about 0.2 GB")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--wal", type=float, default=1, help="GiB of WAL between incrementals; three of them are written"
    )
    parser.add_argument("--seconds", type=int, default=4, help="of pgbench, each time")
    parser.add_argument("--majors", type=int, nargs="+", default=[15, 18], choices=[15, 18])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit, so that everything is ended and removed
    if how := missing():
        raise SystemExit("a peer is missing; get it by:\n" + "\n".join(how))
    for major in options.majors:
        write_table(f"physical_{major}", Physical(major, options).measure())


class Physical:
    """One major version and the peer that fits it."""

    def __init__(self, major: int, options: argparse.Namespace) -> None:
        self._major = major
        self._options = options
        self._load = os.getloadavg()[0]

    def measure(self) -> str:
        """Measure everything; return the tables."""
        own = {"summarize_wal": "on"} if self._major >= 17 else {"archive_mode": "on"}
        with stage(self._options.scale, major=self._major, settings={**SERVER, **own}) as prepared:
            with opened(prepared) as peer:
                load, ours = Load(prepared.superuser), Ours(prepared)
                size = size_of(prepared.server.data / "base")
                with ours.receiving():
                    peer.wait_for(load.close_segment())
                    tables = [
                        *self._captures(prepared, peer, ours, load),
                        *self._recoveries(prepared, peer, ours, load),
                    ]
                    tables.append(self._rates(prepared, peer, ours, load))
                lines = [self._conditions(peer, size), "", *(line for table in tables for line in table.lines())]
            if self._major >= 17:
                lines += measure_throughput(prepared, rounds=2 * self._options.rounds, seconds=self._options.seconds)
                lines += measure_losses(prepared, kills=3 * self._options.rounds)
        return "\n".join(lines)

    def _conditions(self, peer: Peer, size: int) -> str:
        return (
            f"PostgreSQL {self._major}, {peer.name} {peer.version.strip()}; {size / 1e9:.2f} GB of files;"
            f" {self._options.rounds} interleaved rounds; {machine()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; load"
            f" average {self._load:.1f} before, {os.getloadavg()[0]:.1f} at the end. Medians (least to most); a ratio"
            " is the median of the rounds' own."
        )

    def _captures(self, prepared: Stage, peer: Peer, ours: Ours, load: Load) -> tuple[Rounds, Rounds]:
        """Fulls, then a change and incrementals; each of ours stands on the one before."""
        full = Rounds("base backup", peer.name, goals={BASE: "≤ 0.7"})
        small = Rounds("incremental after 2 % of the events changed", peer.name, goals={BASE: "≤ 0.4"})
        data = prepared.server.data / "base"
        for _ in range(self._options.rounds):
            seconds, name = timed(peer.full)
            full.note(peer.name, seconds, size=peer.stored(name))
            for label, config in ((PROVED, ours.proved), (BASE, ours.plain)):
                seconds, _, [document] = pgbackup(config, "backup", "base")
                full.note(label, seconds, size=document["bytes"])
            compressed = f"find {data} -type f -exec cat {{}} + | zstd -1 -T2 -q | cat >/dev/null"
            full.note("limit: `cat` the files, `zstd -1 -T2`", shell(compressed))
            copied = prepared.folder / "copy"
            full.note("limit: `cp -a` the files, `sync`", shell(f"cp -a {data} {copied} && sync -f {copied}"))
            shutil.rmtree(copied)
            for label, config in ((BASE, ours.plain), (PROVED, ours.proved)):
                load.change(0.02)
                if label is BASE:
                    seconds, name = timed(peer.incremental)
                    small.note(peer.name, seconds, size=peer.stored(name))
                seconds, _, [document] = pgbackup(config, "backup", "incremental")
                if document["kind"] != "incremental":
                    raise SystemExit("a base was taken instead of an incremental")
                small.note(label, seconds, size=document["bytes"])
        return full, small

    def _recoveries(self, prepared: Stage, peer: Peer, ours: Ours, load: Load) -> tuple[Rounds, Rounds]:
        """A base, and an incremental after each GiB: a point just before one is the worst that can be asked for."""
        full, step = peer.full(), int(self._options.wal * GIB)
        pgbackup(ours.plain, "backup", "base")
        load.write(step)
        load.mark("one")
        states = {"one": load.state()}
        for _ in range(2):
            newest = peer.incremental()
            pgbackup(ours.plain, "backup", "incremental")
            load.write(step)
        load.mark("three")
        states["three"] = load.state()
        last = load.close_segment()
        peer.wait_for(last)
        ours.wait_for(last)
        points = {
            "one": (f"{self._options.wal:g} GiB of WAL after the base", {peer.name: full}),
            "three": (
                f"{3 * self._options.wal:g} GiB of WAL after the base",
                {peer.name: full, f"{peer.name}, from its incremental at two thirds": newest},
            ),
        }
        tables = []
        for point, (title, backups) in points.items():
            table = Rounds(f"recovery to a point {title}, fetch to ready", peer.name)
            table.goals["ours"] = "≤ 0.5" if point == "three" else ""
            for _ in range(self._options.rounds):
                for label, backup in backups.items():
                    table.note(label, self._peers_recovery(prepared, peer, backup, point, states[point]))
                table.note("ours", ours.recover(point, states[point]))
            tables.append(table)
        return tables[0], tables[1]

    def _peers_recovery(self, prepared: Stage, peer: Peer, backup: str, point: str, state: str) -> float:
        folder = prepared.folder / "recovered"
        folder.mkdir(mode=0o700)
        start = time.monotonic()
        peer.restore(backup, point, folder)
        options = f"-c archive_mode=off -c unix_socket_directories={folder} -c port=5433"
        command = living_on(
            prepared.server.programs,
            "pg_ctl",
            "start",
            "--silent",
            f"--pgdata={folder}",
            f"--log={folder}/log",
            "--timeout=600",
            f"--options={options}",
        )
        if subprocess.run(command.argv, check=False).returncode != 0:
            raise SystemExit(f"what {peer.name} restored does not start: {(folder / 'log').read_text()[-2000:]}")
        keywords = {**prepared.superuser.keywords, "host": str(folder), "port": "5433"}
        with psycopg.connect(**keywords, autocommit=True) as connection:
            while connection.execute("SELECT pg_is_in_recovery()").fetchall()[0][0]:
                time.sleep(0.05)
            seconds = time.monotonic() - start
            found = Load.state_of(connection)
        end_server(folder)
        if found != state:
            raise SystemExit(f"{peer.name} recovered something else than there was: {found}, {state}")
        return seconds

    def _rates(self, prepared: Stage, peer: Peer, ours: Ours, load: Load) -> Rounds:
        table = Rounds("archiving a backlog of 64 segments, encrypted", peer.name, unit="MB/s", goals={"ours": "≥ 1.5"})
        last = load.close_segment()
        peer.wait_for(last)
        segments = segments_of(prepared.server.data / "pg_wal", last, 64)
        size = sum(segment.stat().st_size for segment in segments)
        for _ in range(self._options.rounds):
            table.note(peer.name, size / 1e6 / peer.push(segments))
            table.note("ours", size / 1e6 / ours.seal(segments))
        return table


def timed(do: Callable[[], str]) -> tuple[float, str]:
    """Do it; return the seconds and its result."""
    start = time.monotonic()
    result = do()
    return time.monotonic() - start, result


def shell(command: str) -> float:
    """Run a pipeline; return the seconds."""
    start = time.monotonic()
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - the limit is what a user would type
    return time.monotonic() - start


if __name__ == "__main__":
    main()

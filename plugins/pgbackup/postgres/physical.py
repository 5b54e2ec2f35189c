"""Physical backups: what PostgreSQL's programs are called with, and what their files say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Command
from pgbackup.postgres.connection import ProgramAccess
from pgbackup.postgres.programs import Programs


@dataclass(frozen=True)
class WalRange:
    """The WAL that a physical backup needs to become consistent; ``stop`` is the earliest point of recovery."""

    timeline: int
    start: Lsn
    stop: Lsn


def base_backup(
    programs: Programs,
    access: ProgramAccess,
    database: str,
    folder: Path,
    *,
    compress: bool,
    parent: Path | None,
    max_rate: str | None,
) -> Command:
    """Take a base backup, or with ``parent`` (its backup_manifest) an incremental one, as tar files in ``folder``.

    The WAL comes along in its own stream, so that the server does not wait for its archiver. ``max_rate`` limits
    what the server sends, after its compression.
    """
    options = ["--compress=server-zstd:level=1,workers=2"] if compress else []
    if max_rate is not None:
        options.append(f"--max-rate={max_rate}")
    if parent is not None:
        options.append(f"--incremental={parent}")
    return programs.command(
        "pg_basebackup",
        "--format=tar",
        f"--pgdata={folder}",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-sync",  # the files are only read on; what is stored is synced by the repository
        "--no-password",
        f"--dbname={access.conninfo(database)}",
        *options,
        env=access.env,
    )


def receive_wal(programs: Programs, access: ProgramAccess, database: str, folder: Path, *options: str) -> Command:
    """Stream WAL segments into a folder until told to stop: from where its files end, else the slot of ``options``.

    Without a slot and in an empty folder, from the server's present segment on.
    """
    return programs.command(
        "pg_receivewal",
        f"--directory={folder}",
        "--no-password",
        "--no-loop",
        "--status-interval=1",
        *options,
        f"--dbname={access.conninfo(database)}",
        env=access.env,
    )


def read_transactions(programs: Programs, folder: Path, *, timeline: int, start: Lsn, end: Lsn) -> Command:
    """Print the records of commits and aborts between two positions."""
    return _read_wal(programs, folder, timeline, start, end, "Transaction")


def read_landmarks(programs: Programs, folder: Path, *, timeline: int, start: Lsn, end: Lsn) -> Command:
    """Print the records of commits and of named restore points, among others, between two positions."""
    return _read_wal(programs, folder, timeline, start, end, "Transaction", "XLOG")


def find_tablespace_creations(programs: Programs, folder: Path, *, timeline: int, start: Lsn, end: Lsn) -> Command:
    """Print the records that create tablespaces: replayed, they write to their absolute paths."""
    return _read_wal(programs, folder, timeline, start, end, "Tablespace")


def _read_wal(programs: Programs, folder: Path, timeline: int, start: Lsn, end: Lsn, *managers: str) -> Command:
    """Print the records of some resource managers."""
    return programs.command(
        "pg_waldump",
        *(f"--rmgr={manager}" for manager in managers),
        f"--path={folder}",
        f"--timeline={timeline}",
        f"--start={start}",
        f"--end={end}",
    )


def verify_backup(programs: Programs, folder: Path) -> Command:
    """Compare every file of an unpacked backup with its backup_manifest."""
    return programs.command("pg_verifybackup", "--no-parse-wal", "--quiet", str(folder))


def combine(programs: Programs, chain: tuple[Path, ...], target: Path, *, major: int) -> Command:
    """Make one data directory of a base and its incrementals, in order; where it can, of the links' own files.

    The links are no backups any more afterwards.
    """
    options = ("--link",) if major >= 18 else ()
    folders = (str(folder) for folder in chain)
    return programs.command("pg_combinebackup", "--no-sync", "--no-manifest", *options, f"--output={target}", *folders)


def check_pages(programs: Programs, data: Path) -> Command:
    """Read every page of a cleanly stopped server and compare its checksum."""
    return programs.command("pg_checksums", "--check", f"--pgdata={data}")


def read_control(programs: Programs, data: Path) -> Command:
    """Print a stopped server's control data."""
    return programs.command("pg_controldata", f"--pgdata={data}")


def parse_control(control: str) -> dict[str, str]:
    """Return the control data by name."""
    rows = (line.partition(":") for line in control.splitlines())
    return {name: value.strip() for name, _, value in rows}


def source_limits(control: str) -> dict[str, str]:
    """Return the settings of the source that a server needs at least as high to replay its WAL."""
    names = {
        "max_connections setting": "max_connections",
        "max_worker_processes setting": "max_worker_processes",
        "max_prepared_xacts setting": "max_prepared_transactions",
        "max_locks_per_xact setting": "max_locks_per_transaction",
    }
    return {names[name]: value for name, value in parse_control(control).items() if name in names}


def read_backup_manifest(path: Path) -> WalRange:
    """Return the WAL range of a backup_manifest; raises RefusedError for one that spans timelines."""
    ranges = json.loads(path.read_bytes())["WAL-Ranges"]
    if len(ranges) != 1:
        raise RefusedError("the backup spans more than one timeline", hint="take it again: the server was promoted")
    return WalRange(ranges[0]["Timeline"], Lsn.parse(ranges[0]["Start-LSN"]), Lsn.parse(ranges[0]["End-LSN"]))

"""Bring a physical backup to a point of its WAL: unpack, check, start isolated, replay, promote."""

from __future__ import annotations

import shutil
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, RefusedError, UnfitError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Runner
from pgbackup.postgres import physical
from pgbackup.postgres.throwaway import ThrowAwayServer

RECOVERY_TIMEOUT = 6 * 3600.0
"""Seconds after which a replay counts as hanging; a server that dies is noticed at once."""


def unpack_base(runner: Runner, server: ThrowAwayServer, files: Path) -> None:
    """Unpack a base and its WAL into the server's data directory, and compare every file with the backup_manifest."""
    server.discard()
    server.data.mkdir(mode=0o700, parents=True)
    _unpack(runner, files / "base.tar.zst", server.data)
    shutil.copy(files / "backup_manifest", server.data / "backup_manifest")
    try:
        runner.run(physical.verify_backup(server.programs, server.data))
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise RefusedError("files of the base backup differ from its backup_manifest", detail=error.detail) from None
    _unpack(runner, files / "wal.tar.zst", server.data / "pg_wal")


def refuse_tablespace_creation(runner: Runner, server: ThrowAwayServer, manifest: Manifest) -> None:
    """Refuse to replay CREATE TABLESPACE: it would write into the source's own folders on the same machine."""
    command = physical.find_tablespace_creations(
        server.programs,
        server.data / "pg_wal",
        timeline=manifest.server.timeline,
        start=Lsn.parse(manifest.start_lsn or ""),
        end=Lsn.parse(manifest.end_lsn or ""),
    )
    output, _ = runner.run(command)
    if b"CREATE" in output:
        raise UnfitError(
            "the WAL of this backup creates a tablespace: replaying it would write to the source's path",
            hint="verify it on a machine where that path does not exist",
        )


def recovery_settings(runner: Runner, server: ThrowAwayServer, manifest: Manifest, target: Lsn) -> dict[str, str]:
    """Return what makes a server replay to just before ``target`` and then promote.

    The segments lie in pg_wal already, so that the restore command has nothing to find.
    """
    control, _ = runner.run(physical.read_control(server.programs, server.data))
    return {
        **physical.source_limits(control.decode(errors="replace")),
        "restore_command": "false",
        "recovery_target_lsn": str(target),
        "recovery_target_inclusive": "off",
        "recovery_target_action": "promote",
        "recovery_target_timeline": str(manifest.server.timeline),
        "hot_standby": "off",
    }


def marked_target(manifest: Manifest) -> Lsn | None:
    """Return the marked point that proves most rows of a backup; None when no snapshot had one."""
    rows: dict[str, int] = {}
    for entry in manifest.databases:
        if entry.marked_lsn is not None:
            count = sum(table.content.rows for table in entry.tables if table.content)
            rows[entry.marked_lsn] = rows.get(entry.marked_lsn, 0) + count
    return Lsn.parse(max(rows, key=rows.__getitem__)) if rows else None


def _unpack(runner: Runner, archive: Path, folder: Path) -> None:
    command = Command(
        (
            "tar",
            "--extract",
            "--no-same-owner",
            f"--file={archive}",
            "--use-compress-program=zstd --quiet",
            f"--directory={folder}",
        )
    )
    try:
        runner.run(command)
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise RefusedError(f"{archive.name} does not unpack", detail=error.detail) from None

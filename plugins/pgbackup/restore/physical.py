"""Bring an unpacked physical backup to a point of its WAL, isolated, and promote it there."""

from __future__ import annotations

from pgbackup.domain.errors import UnfitError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Runner
from pgbackup.postgres import physical
from pgbackup.postgres.throwaway import ThrowAwayServer

RECOVERY_TIMEOUT = 6 * 3600.0
"""Seconds after which a replay counts as hanging; a server that dies is noticed at once."""


def refuse_tablespace_creation(runner: Runner, server: ThrowAwayServer, timeline: int, start: Lsn, end: Lsn) -> None:
    """Refuse to replay CREATE TABLESPACE: it would write into the source's own folders on the same machine."""
    command = physical.find_tablespace_creations(
        server.programs,
        server.data / "pg_wal",
        timeline=timeline,
        start=start,
        end=end,
    )
    # It ends with 1 where the WAL that is here ends.
    output, _ = runner.run(command, ok=frozenset({0, 1}))
    if b"CREATE" in output:
        raise UnfitError(
            "the WAL creates a tablespace: replaying it would write to the source's path",
            hint="do it on a machine where that path does not exist",
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

"""Bring an unpacked physical backup to a point of its WAL, isolated, and promote it there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pgbackup.domain.errors import UnfitError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Runner, Site
from pgbackup.postgres import physical
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.measure import record

_RECOVERING = frozenset({"in archive recovery", "shut down in recovery"})
_TIMEOUT = 6 * 3600.0
"""Seconds after which a replay counts as hanging; a server that dies is noticed at once."""


@contextlib.contextmanager
def recovering(site: Site, server: ThrowAwayServer, cluster: str, repository: str) -> Iterator[ConnectionParameters]:
    """Run a server that replays first, and promotes; how fast it did is measured."""
    _ask_again(site, server)
    with server.recovering(timeout=_TIMEOUT) as (parameters, redo):
        if redo is not None:
            record(site, cluster, repository, "replay", redo.bytes, redo.seconds)
        yield parameters


def _ask_again(site: Site, server: ThrowAwayServer) -> None:
    """Ask a server for the recovery that it was killed in, at whatever moment of it.

    When it has reached its target it removes the signal file, and only then begins its own timeline: killed in between
    it would replay all the WAL there is, and never promote.
    """
    output, _ = site.runner.run(physical.read_control(server.programs, server.data))
    state = physical.parse_control(output.decode(errors="replace")).get("Database cluster state")
    if state in _RECOVERING:
        (server.data / "recovery.signal").touch()
        server.own()


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

"""Replay to the target of a plan, isolated, promote there, and see that it is the target."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.target import AtLsn, AtName, AtTime, AtXid, Latest, Target
from pgbackup.domain.wal import history_timeline, parse_history
from pgbackup.postgres import physical
from pgbackup.postgres.connection import Connection, connect
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover.workplace import Workplace
from pgbackup.restore.physical import recovering

log = logging.getLogger(__name__)

_SIGNAL = "recovery.signal"
_LEFT_BEHIND = 60.0
_NOT_REACHED = "recovery ended before configured recovery target was reached"
# What a server says of the backup and its WAL; anything else is the machine's.
_REFUSED = re.compile(rf"{_NOT_REACHED}|before consistent recovery point|requested timeline|WAL ends before")


@dataclass(frozen=True)
class Replayed:
    """Where a recovery ended: what is before ``lsn`` is there; from there on the history is ``timeline``'s.

    ``last_commit`` is the stamp of the last transaction, ``heartbeat`` the newest row of the receiver's, None where
    nobody knows. ``prepared`` are the transactions that wait for a decision.
    """

    lsn: Lsn
    timeline: int
    last_commit: datetime | None
    heartbeat: datetime | None
    prepared: tuple[str, ...]


_results = TypeAdapter(Replayed)


def replayed_json(replayed: Replayed) -> bytes:
    """Serialize for the workplace."""
    return _results.dump_json(replayed)


def parse_replayed(text: bytes) -> Replayed:
    """Read back what an earlier run recovered."""
    return _results.validate_json(text)


def replay(site: Site, plan: RecoveryPlan, server: ThrowAwayServer, place: Workplace) -> Replayed:
    """Replay, promote, stop cleanly; an earlier run's replay is gone on with.

    Raises RefusedError when recovery ends elsewhere than at the target: nothing ends early without being told.
    """
    wait_for_leftover(server.data)
    place.once("adopt", lambda: _adopt(site, server, {**_settings(plan), **_stop(plan.stop)}))
    try:
        found = _promoted(site, plan, server)
    except UnavailableError as error:
        if _NOT_REACHED not in (error.detail or "") or not plan.at_end:
            raise _judged(error, plan) from None
        log.info("no record lies behind %s: the end of the WAL is the target", plan.stop)
        place.once("end", lambda: _adopt(site, server, _settings(plan)))
        found = _promoted(site, plan, server)
    _check_stopped(site, server, found)
    ended = isinstance(plan.stop, Latest) or place.is_done("end")
    if ended and found.lsn < plan.wal[-1].end.minus(plan.segment_size):
        raise RefusedError(
            f"replay ended at {found.lsn}, and the WAL goes on to {plan.wal[-1].end}",
            detail="a record in between cannot be read",
            hint="recover from another repository (--from), or to a moment before it",
        )
    return found


def _settings(plan: RecoveryPlan) -> dict[str, str]:
    return {
        "restore_command": "false",  # all WAL lies in pg_wal
        "recovery_target_timeline": str(plan.timeline),
        "recovery_target_action": "promote",
        "hot_standby": "off",
        "wal_level": "replica",
    }


def _stop(target: Target) -> dict[str, str]:
    match target:
        case Latest():
            return {}
        case AtTime(moment):
            return {"recovery_target_time": moment.isoformat(" ")}
        case AtLsn(lsn):
            return {"recovery_target_lsn": str(lsn), "recovery_target_inclusive": "off"}
        case AtXid(xid):
            return {"recovery_target_xid": str(xid)}
        case AtName(name):
            return {"recovery_target_name": name.replace("\\", "\\\\").replace("'", "''")}


def _adopt(site: Site, server: ThrowAwayServer, settings: Mapping[str, str]) -> None:
    control, _ = site.runner.run(physical.read_control(server.programs, server.data))
    (server.data / "standby.signal").unlink(missing_ok=True)
    server.adopt({**physical.source_limits(control.decode(errors="replace")), **settings})


def _promoted(site: Site, plan: RecoveryPlan, server: ThrowAwayServer) -> Replayed:
    """Run the server until it has promoted; return where that was."""
    with recovering(site, server, plan.cluster, plan.repository) as parameters, connect(parameters) as connection:
        [last_commit] = _row(connection, "SELECT pg_catalog.pg_last_xact_replay_timestamp()")
        rows = connection.execute("SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY prepared").fetchall()
        heartbeats = list(_heartbeats(connection, parameters))
    timeline, lsn = _switch(server.data / "pg_wal")
    return Replayed(lsn, timeline, last_commit, max(heartbeats, default=None), tuple(row[0] for row in rows))


def _heartbeats(connection: Connection, parameters: ConnectionParameters) -> Iterator[datetime]:
    """Yield the newest heartbeat of each database that has any."""
    names = connection.execute("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate")
    for (name,) in names.fetchall():
        with connect(parameters, name) as database:
            if _row(database, "SELECT pg_catalog.to_regclass('pgbackup.heartbeat')")[0] is not None:
                [newest] = _row(database, "SELECT max(moment) FROM pgbackup.heartbeat")
                if newest is not None:
                    yield newest


def _row(connection: Connection, statement: str) -> tuple[datetime | None, ...]:
    return connection.execute(statement.encode()).fetchone() or (None,)


def _switch(folder: Path) -> tuple[int, Lsn]:
    """Return the newest timeline, which the promotion made, and where it left the one before."""
    found = {history_timeline(path.name): path for path in folder.iterdir()}
    timeline = max(number for number in found if number is not None)
    return timeline, parse_history(found[timeline].read_text())[-1].position


def _check_stopped(site: Site, server: ThrowAwayServer, found: Replayed) -> None:
    """Raise unless the server was stopped cleanly on the timeline that its promotion made."""
    output, _ = site.runner.run(physical.read_control(server.programs, server.data))
    control = physical.parse_control(output.decode(errors="replace"))
    state = control.get("Database cluster state"), control.get("Latest checkpoint's TimeLineID")
    if state != ("shut down", str(found.timeline)):
        raise UnavailableError(
            "the recovered server did not stop cleanly", detail=f"{state[0]}, timeline {state[1]}", hint="try again"
        )


def _judged(error: UnavailableError, plan: RecoveryPlan) -> UnavailableError | RefusedError:
    if not _REFUSED.search(error.detail or ""):
        return error
    return RefusedError(
        f"recovery does not reach {plan.target}",
        detail=error.detail,
        hint="choose a moment that `pgbackup plan-recovery` shows, or --to latest",
    )


def wait_for_leftover(data: Path) -> None:
    """Wait for the server of a killed run: it stops by itself, but not at once."""
    deadline = time.monotonic() + _LEFT_BEHIND
    with contextlib.suppress(OSError, ValueError, IndexError):
        while time.monotonic() < deadline:
            pid = int((data / "postmaster.pid").read_text().split()[0])
            if Path(f"/proc/{pid}/cwd").resolve() != data.resolve():
                return
            time.sleep(0.1)

"""Receive WAL through a replication slot, for as long as the machine runs, and leave nothing out unnoticed.

pg_receivewal writes into ``<received>/<cluster>/<system identifier>``; finished files are sealed in the archive and
then removed, all of them. pg_receivewal goes on at the last file of its folder, in an empty one at the slot's
restart_lsn. Neither is left to chance: before each start an empty ``.partial`` marks where folder and archive end, so
that a slot that was made anew skips nothing that the server still has.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pgbackup.domain.errors import BusyError, PgBackupError, TransientError, UnavailableError, UnfitError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Process, Site
from pgbackup.domain.wal import Segment, is_segment
from pgbackup.postgres import replication, standstill
from pgbackup.postgres.connection import Connection, ProgramAccess, connect, program_access, server_errors
from pgbackup.postgres.physical import receive_wal
from pgbackup.postgres.programs import find_programs
from pgbackup.postgres.replication import Position, SlotState
from pgbackup.restore.archive import list_archive
from pgbackup.restore.received import receiver_folder
from pgbackup.scratch import held, make_private
from pgbackup.wal.heartbeat import beating
from pgbackup.wal.journal import Journal
from pgbackup.wal.sealing import MAJOR, sealing

log = logging.getLogger(__name__)

RECEIVER_NAME = "pgbackup_receiver"
"""What the receiver's connection is called, for synchronous_standby_names: no capture's WAL stream may pass for it."""

_PARTIAL = ".partial"
_POLL = 0.1
_SETTLED = 1.0
_SOONEST, _LATEST = 1.0, 30.0
_STOP = 30.0
_LOOKED_AT = 2.0  # `pgbackup wal status` holds the lock for a moment, to see whether we do
# What the server says when it has not got, or never had, the WAL at which our files end.
_NOT_SERVED = re.compile(r"has already been removed|not in this server's history|ahead of the WAL flush position")


def receive(site: Site, cluster: str, *, stop: Callable[[], bool]) -> None:
    """Receive and seal WAL until ``stop`` says so; whatever interrupts it, try again.

    Raises BusyError when another process receives this cluster's WAL here, UnfitError when the slot is missing or
    lost, or the server does not let us in: nothing is received then, which somebody has to see.
    """
    # A network that swallows everything is noticed by what stays unacknowledged, not by the kernel's quarter hour.
    parameters = site.connections(cluster)
    parameters = parameters.replace(
        **{"tcp_user_timeout": "30000", **parameters.keywords, "application_name": RECEIVER_NAME}
    )
    with contextlib.ExitStack() as stack:
        folder = receiver_folder(site.settings, cluster)
        make_private(folder)
        busy = BusyError("another receiver is at work here", detail=str(folder))
        stack.enter_context(held(folder, busy, patience=_LOOKED_AT))
        journal = Journal(site, cluster)
        stack.callback(journal.write, at_once=True)
        access = stack.enter_context(program_access(parameters))
        stack.enter_context(sealing(site, cluster, folder, journal))
        stack.enter_context(beating(site, cluster, journal))
        receiver = _Receiver(site, cluster, folder, journal, access, stop)
        try:
            receiver.run()
        except PgBackupError as error:
            journal.note(error=str(error))
            raise
        finally:
            journal.note(receiving=False)


class _Receiver:
    """Keeps pg_receivewal running. ``given_up`` is where our WAL ended when the server could not go on there."""

    def __init__(
        self,
        site: Site,
        cluster: str,
        folder: Path,
        journal: Journal,
        access: ProgramAccess,
        stop: Callable[[], bool],
    ) -> None:
        self._site = site
        self._cluster = cluster
        self._folder = folder
        self._journal = journal
        self._access = access
        self._stop = stop
        self._settings = site.settings.cluster(cluster).wal
        self._given_up: set[Lsn] = set()

    def run(self) -> None:
        """Stream until the end, again after each interruption."""
        delay = _SOONEST
        while not self._stop():
            began = time.monotonic()
            try:
                self._stream()
            except (TransientError, OSError) as error:
                self._journal.note(receiving=False, error=str(error))
                log.warning("not receiving: %s", error)
            delay = _SOONEST if time.monotonic() - began > _LATEST else delay
            self._wait(delay)
            delay = min(2 * delay, _LATEST)

    def _stream(self) -> None:
        """Stream until the end, or until pg_receivewal ends, which raises UnavailableError."""
        parameters = self._site.connections(self._cluster)
        with connect(parameters) as connection, server_errors(self._cluster):
            major = connection.info.server_version // 10000
            programs = find_programs(self._site.settings.paths.postgres_bin, major=major)
            position = replication.position(connection)
            slot = self._slot(connection)
        folder = self._folder / position.system_identifier
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / MAJOR).touch(mode=0o600)
        (folder / MAJOR).write_text(f"{major}\n")
        start = self._start(folder, position, slot)
        options = ("--synchronous",) if self._settings.synchronous else ()
        database = parameters.keywords.get("dbname", "postgres")
        command = receive_wal(programs, self._access, database, folder, f"--slot={slot.name}", *options)
        log.info("receiving from %s on timeline %d of system %s", start, position.timeline, position.system_identifier)
        self._journal.note(system_identifier=position.system_identifier)
        process = self._site.runner.spawn(command)
        try:
            self._follow(process)
        finally:
            process.stop(signal.SIGINT, _STOP)
        if self._stop():
            return
        if _NOT_SERVED.search(process.stderr()):
            self._give_up(folder, start)
        raise UnavailableError(
            "pg_receivewal ended",
            detail=process.stderr()[-2000:] or None,
            hint="it is started again; look at the server, its log and the network",
        )

    def _follow(self, process: Process) -> None:
        settled = time.monotonic() + _SETTLED
        while process.poll() is None and not self._stop():
            if not self._journal.status.receiving and time.monotonic() > settled:
                self._journal.note(receiving=True, error=None)
            self._journal.write()
            time.sleep(_POLL)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop():
            self._journal.write()
            time.sleep(_POLL)

    def _slot(self, connection: Connection) -> SlotState:
        """Return the slot; raises UnfitError when it keeps nothing for us, BusyError while another one uses it."""
        name = self._settings.slot
        slot = replication.slot(connection, name)
        hint = (
            "what was written since is missing: `pgbackup wal create-slot`, start the receiver again, and take a new"
            " base: `pgbackup backup full`"
        )
        if slot is None and standstill.forbids_writes(
            connection
        ):  # a switch makes the slot before it lets anybody write
            raise UnavailableError(f"there is no replication slot {name} yet", hint="the server is read only, so far")
        if slot is None:
            raise UnfitError(f"there is no replication slot {name}", hint=hint)
        if not slot.physical:
            raise UnfitError(f"slot {name} is a logical one", hint="name another one in wal.slot")
        if slot.lost:
            raise UnfitError(
                f"the server has given up slot {name}",
                detail=slot.invalidation_reason or slot.wal_status,
                hint=f"drop it (pg_drop_replication_slot('{name}')); {hint}",
            )
        if slot.active:
            raise BusyError(
                f"slot {name} is in use", hint="another receiver, or one that the server has not missed yet"
            )
        return slot

    def _start(self, folder: Path, position: Position, slot: SlotState) -> Lsn:
        """Let pg_receivewal begin where our WAL ends, in folder and archive; return where that is.

        The slot may be ahead, made anew or used by somebody else: then the server is asked for what is missing, and
        only if it has not got that any more there is a gap. Nothing known, or given up: it begins at the slot; and
        at the present where the failed attempt has set the slot back, to what the server has not got.
        """
        size = position.segment_size
        known = {*self._archived(position.system_identifier), *_segments(folder, "", size)}
        newest = max(known, key=_age, default=None)
        for segment in sorted(_segments(folder, _PARTIAL, size), key=_age):
            path = folder / (segment.name + _PARTIAL)
            if path.stat().st_size not in {0, size}:
                path.unlink()  # its receiver was killed while laying it out, before anything was in it
            elif newest is not None and _age(segment) <= _age(newest):
                _put_aside(path)
        partial = max(_segments(folder, _PARTIAL, size), key=_age, default=None)
        wanted = partial or (newest.next() if newest else None)
        if wanted is None or wanted.start in self._given_up:
            start = (slot.restart_lsn or position.flush).floor(size)
            wanted = None
            if start in self._given_up:
                wanted = Segment.holding(position.flush, position.timeline, size)
        if wanted is not None:
            start = wanted.start
            (folder / (wanted.name + _PARTIAL)).touch(mode=0o600)
        reached = max((segment.end for segment in known if segment.end <= start), default=start)
        if reached < start:
            self._journal.note(gap=f"{reached} to {start}")
            log.error("a gap: WAL from %s to %s is missing and will not come; take a new base", reached, start)
        return start

    def _archived(self, system_identifier: str) -> Iterable[Segment]:
        try:
            return list_archive(self._site.local, self._cluster, system_identifier).segments
        except PgBackupError as error:
            log.warning("cannot tell whether there is a gap: %s", error)
            return ()

    def _give_up(self, folder: Path, start: Lsn) -> None:
        """The server cannot go on where our WAL ends: begin at the slot the next time."""
        self._given_up.add(start)
        for path in folder.glob(f"*{_PARTIAL}"):
            _put_aside(path)


def _age(segment: Segment) -> tuple[int, int]:
    return segment.number, segment.timeline


def _segments(folder: Path, suffix: str, size: int) -> list[Segment]:
    """Return the segments of which a folder has files that end like this."""
    names = [path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")]
    return [Segment.parse(name, size) for name in names if is_segment(name)]


def _put_aside(path: Path) -> None:
    """Keep a file that nothing follows out of pg_receivewal's sight; one without content goes."""
    if path.stat().st_size:
        path.replace(path.with_name(f"{path.name}.aside"))
    else:
        path.unlink()

"""The receiver's side: its slot, its life, what the server keeps for it, how far its disk and the archive are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pgbackup.domain.findings import Answer
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.settings import Wal
from pgbackup.postgres import replication
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.replication import Position, SlotState
from pgbackup.restore.received import ReceiverStatus
from pgbackup.watch.archive import ArchiveState
from pgbackup.watch.text import megabytes, new_base, span

_START = "start it (`pgbackup wal receive`, or its service); its log says why it stopped"


@dataclass(frozen=True)
class Streaming:
    """What the server says of its receiver; moments are by the server's clock."""

    now: datetime
    position: Position
    slot: SlotState | None
    received: Lsn | None
    heartbeat: datetime | None


def observe_streaming(connection: Connection, slot: str) -> Streaming:
    """Ask the server; where it is comes first, so that nobody seems to lag behind what was written meanwhile."""
    position = replication.position(connection)
    beat = replication.newest_heartbeat(connection)
    return Streaming(
        replication.now(connection),
        position,
        replication.slot(connection, slot),
        replication.received(connection, slot),
        beat[0] if beat else None,
    )


def slot_is_whole(seen: Streaming, archive: ArchiveState | None, wal: Wal, cluster: str) -> Answer:
    """The slot must keep everything behind what the archive and the receiver's disk have."""
    slot = seen.slot
    again = f"`pgbackup wal create-slot`, start the receiver, {new_base(cluster)}"
    if slot is None:
        return False, f"there is no slot {wal.slot}: the server keeps nothing for the receiver, a gap opens", again
    if not slot.physical or slot.restart_lsn is None or slot.lost:
        reason = slot.invalidation_reason or slot.wal_status or ("reserves nothing" if slot.physical else "logical")
        lost = f"slot {slot.name} keeps no WAL ({reason}): what the receiver has not got may be gone"
        return False, lost, f"drop it, {again}"
    reach = archive.reach(seen.position.timeline) if archive else None
    if reach is not None and slot.restart_lsn.floor(seen.position.segment_size) > reach:
        hole = f"slot {slot.name} begins at {slot.restart_lsn}, archive and receiver end at {reach}"
        hint = (
            "the slot was made anew, or the receiver's folder emptied: save what lies between from the server's pg_wal"
        )
        return False, f"{hole}: a gap", f"{hint}, {new_base(cluster)}"
    if not slot.safe:
        dying = f"slot {slot.name} is {slot.wal_status}: the server removes its WAL at the next checkpoint"
        return False, dying, "let the receiver catch up now; raise max_slot_wal_keep_size"
    return True, f"{slot.name} keeps WAL from {slot.restart_lsn}", ""


def receiver_is_alive(seen: Streaming, told: ReceiverStatus | None, wal: Wal) -> Answer:
    """The slot is in use, and the heartbeat that the receiver writes is young."""
    why = f" ({told.error})" if told and told.error else ""
    if seen.slot is None or not seen.slot.active:
        return False, f"nobody streams from slot {wal.slot}: only what was received is safe{why}", _START
    if seen.heartbeat is None:
        return False, "it streams, but there is no heartbeat", "run include/sql/streamflix/pgbackup.sql in a database"
    age = seen.now - seen.heartbeat
    return age <= wal.stale, f"newest heartbeat {span(age)} old{why}", f"it streams, but does not beat: {_START}"


def retained(seen: Streaming, wal: Wal) -> Answer:
    """What the server keeps for the slot fills its disk, or costs the slot where that is limited."""
    slot = seen.slot
    if slot is None or slot.retained_bytes is None:
        return True, "the slot keeps nothing", ""
    detail = f"{megabytes(slot.retained_bytes)} kept for {slot.name}, {megabytes(wal.retained)} allowed"
    if slot.safe_bytes is not None:
        detail += f"; {megabytes(slot.safe_bytes)} more and the server gives the slot up (max_slot_wal_keep_size)"
    ok = slot.retained_bytes <= wal.retained and (slot.safe_bytes is None or slot.retained_bytes <= slot.safe_bytes)
    hint = (
        "start the receiver before the server's disk is full or the slot is lost; where it cannot run, drop the slot:"
        " that costs the continuity, not the server"
    )
    return ok, detail, hint


def waited(seen: Streaming, archive: ArchiveState, connection: Connection) -> timedelta | None:
    """Return for how long whole segments have not been archived: a heartbeat lies behind the first. None: all are."""
    size = seen.position.segment_size
    end, finished = archive.end(seen.position.timeline), seen.position.flush.floor(size)
    if end is not None and end >= finished:
        return None
    since = replication.beat_before(connection, end.plus(size) if end else finished)
    return seen.now - since if since else timedelta(0)


def lag(
    seen: Streaming, archive: ArchiveState, told: ReceiverStatus | None, late: timedelta | None, wal: Wal
) -> Answer:
    """Whole segments that are not archived, and for how long."""
    end = archive.end(seen.position.timeline)
    if late is None:
        return True, f"archived up to {end}", ""
    finished = seen.position.flush.floor(seen.position.segment_size)
    why = "".join(f"; {name} cannot be sealed: {error}" for name, error in (told.unsealed if told else {}).items())
    return (
        late <= wal.stale,
        f"archived up to {end or 'nothing'}, finished up to {finished} {span(late)} ago{why}",
        "`pgbackup wal status` says what the receiver waits for: a full disk, a key, a stopped service",
    )


def exposed(seen: Streaming, archive: ArchiveState, connection: Connection) -> timedelta | None:
    """Return what would be lost if the server were gone now, in time: since the newest heartbeat that is safe.

    None where no heartbeat tells.
    """
    safe = _safe(seen, archive)
    if safe >= seen.position.flush:
        return timedelta(0)
    since = replication.beat_before(connection, safe)
    return seen.now - since if since else None


def loss(seen: Streaming, archive: ArchiveState, late: timedelta | None, rpo: timedelta) -> Answer:
    """Judge what would be lost."""
    hint = "every minute until the receiver runs again is lost with the server: see the other findings"
    if late is None:
        return False, f"cannot be measured: no heartbeat before {_safe(seen, archive)}", hint
    if not late:
        return True, "nothing: all that the server wrote is safe", ""
    return late <= rpo, f"the last {span(late)}, {span(rpo)} allowed", hint


def _safe(seen: Streaming, archive: ArchiveState) -> Lsn:
    known = (archive.end(seen.position.timeline), seen.slot.restart_lsn if seen.slot else None, seen.received)
    return max((one for one in known if one is not None), default=Lsn(0))

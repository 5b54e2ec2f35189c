"""What is known of a cluster's WAL: receiver, archive, slot and server, each as far as it can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Gap, sealed_files
from pgbackup.postgres import replication
from pgbackup.postgres.connection import connect, server_errors
from pgbackup.postgres.replication import Position, SlotState
from pgbackup.restore.archive import Listing, find_gaps, list_archive
from pgbackup.restore.received import ReceiverStatus, receiver_is_alive, receiver_status

_SILENT = timedelta(minutes=1)


@dataclass(frozen=True)
class WalStatus:
    """The facts. ``server`` and ``slot`` are None where the server cannot be asked, ``unreachable`` says why.

    ``gaps`` are those of each archive, by its system identifier.
    """

    cluster: str
    now: datetime
    is_receiver: bool
    alive: bool
    receiver: ReceiverStatus | None
    archives: tuple[Listing, ...]
    gaps: Mapping[str, tuple[Gap, ...]]
    server: Position | None
    slot: SlotState | None
    unreachable: PgBackupError | None

    @property
    def archive(self) -> Listing | None:
        """The archive of the system that runs now, or ran last."""
        told = self.receiver.system_identifier if self.receiver else None
        wanted = self.server.system_identifier if self.server else told
        return next((one for one in self.archives if one.system_identifier == wanted), None)

    @property
    def archived_to(self) -> Lsn | None:
        """The position behind the newest archived segment."""
        newest = self.archive.segments if self.archive else ()
        return max(newest, key=lambda one: (one.number, one.timeline)).end if newest else None

    @property
    def behind(self) -> int | None:
        """Bytes that the server has flushed and the archive does not hold."""
        return _distance(self.archived_to, self.server)

    @property
    def unreceived(self) -> int | None:
        """Bytes that the server has flushed and does not know to be on this disk."""
        return _distance(self.slot.restart_lsn if self.slot else None, self.server)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words; empty when nothing is."""
        found = [f"{name} has two contents" for one in self.archives for name in one.conflicts]
        found += [f"a gap: {gap}" for missing in self.gaps.values() for gap in missing]
        if self.is_receiver:
            found += self._receiver_problems()
        return tuple(found)

    def _receiver_problems(self) -> list[str]:
        found = []
        if not self.alive:
            found.append("the receiver does not run")
        if self.server is not None and (self.slot is None or self.slot.lost):
            found.append("the replication slot is " + ("missing" if self.slot is None else "lost"))
        if self.receiver is None:
            return found
        if self.alive and self.now - self.receiver.told_at > _SILENT:
            found.append(f"the receiver has said nothing since {self.receiver.told_at:%Y-%m-%d %H:%M:%S} UTC")
        if self.receiver.error:
            found.append(f"the receiver: {self.receiver.error}")
        if self.receiver.gap:
            found.append(f"a gap: {self.receiver.gap} did not come")
        return found + [f"{name} cannot be sealed: {why}" for name, why in self.receiver.unsealed.items()]


def wal_status(site: Site, cluster: str) -> WalStatus:
    """Look at everything; what cannot be asked is left out."""
    settings = site.settings.cluster(cluster).wal
    systems = {one.system_identifier for one in sealed_files(info.key for info in site.local.list(f"wal/{cluster}/"))}
    archives = tuple(list_archive(site.local, cluster, system) for system in sorted(systems))
    server, slot, unreachable = None, None, None
    try:
        with connect(site.connections(cluster)) as connection, server_errors(cluster):
            slot = replication.slot(connection, settings.slot)
            server = replication.position(connection)
    except PgBackupError as error:
        unreachable = error
    return WalStatus(
        cluster,
        site.clock(),
        settings.method == "receiver",
        receiver_is_alive(site.settings, cluster),
        receiver_status(site.settings, cluster),
        archives,
        {one.system_identifier: find_gaps(site, site.local, one) for one in archives},
        server,
        slot,
        unreachable,
    )


def _distance(reached: Lsn | None, server: Position | None) -> int | None:
    return None if reached is None or server is None else max(server.flush.position - reached.position, 0)

"""The archive's continuity: what a listing shows, what the receiver has not sealed yet, and where WAL is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.findings import Answer, some
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Gap, Segment, Stretch, is_segment, sealed_files, stretches
from pgbackup.restore.archive import Listing, find_gaps, list_archive
from pgbackup.restore.received import receiver_folder
from pgbackup.watch.text import new_base

_PARTIAL = ".partial"


@dataclass(frozen=True)
class ArchiveState:
    """What there is to recover from: the archive, what is ``elsewhere``, the physical backup to start from.

    WAL is also in the receiver's folder, where a segment that still comes counts as whole, and in the backup itself.
    """

    listing: Listing
    elsewhere: tuple[Stretch, ...]
    gaps: tuple[Gap, ...]
    base: Manifest | None

    def end(self, timeline: int) -> Lsn | None:
        """Return the position behind the last archived segment of a timeline or an earlier one."""
        return max((one.end for one in self.listing.segments if one.timeline <= timeline), default=None)

    def reach(self, timeline: int) -> Lsn | None:
        """Return the position up to which anything is anywhere."""
        found = (*self.listing.stretches, *self.elsewhere)
        return max((one.end for one in found if one.timeline <= timeline), default=None)

    def is_needed(self, timeline: int, end: Lsn) -> bool:
        """Tell whether WAL that ends here is needed to recover from the newest backup."""
        if self.base is None:
            return True
        own = _own_wal(self.base)
        return timeline > own.timeline or (timeline == own.timeline and end > own.start)


def observe_archive(
    site: Site, cluster: str, *, system: str | None, size: int | None, base: Manifest | None
) -> ArchiveState:
    """Look at the receiver's folder, then at the archive: what left the one in between is in the other.

    Where nobody says which system it is (the server is down, there is no backup), the archive's newest is taken.
    """
    system = system or _newest_system(site.local, cluster)
    names = _received(receiver_folder(site.settings, cluster) / system)
    listing = list_archive(site.local, cluster, system)
    size = size or listing.segment_size
    elsewhere = stretches(Segment.parse(name, size) for name in names) if size else ()
    elsewhere += (_own_wal(base),) if base else ()
    return ArchiveState(listing, elsewhere, find_gaps(site, site.local, listing, elsewhere), base)


def continuity(state: ArchiveState, cluster: str) -> Answer:
    """Judge the gaps: one behind the newest backup's start ends what can be reached from it."""
    needed = [gap for gap in state.gaps if state.is_needed(gap.timeline, gap.end)]
    whole = ", ".join(f"{one.start} to {one.end} on timeline {one.timeline}" for one in state.listing.stretches)
    if needed:
        start = state.base.id if state.base else "any backup"
        return (
            False,
            f"missing: {some(map(str, needed))}; from {start} no moment behind that can be reached",
            f"look for them in the server's pg_wal before they are recycled; {new_base(cluster)}",
        )
    if state.gaps:
        older = f"older than {state.base.id if state.base else ''} are missing: {some(map(str, state.gaps))}"
        return True, f"{whole}; {older}: that limits the window", ""
    return True, whole or "nothing is archived yet", ""


def conflicts(state: ArchiveState, cluster: str) -> Answer:
    """Judge names with two contents; for those older than the newest backup nobody asks any more."""
    size = state.listing.segment_size
    found = []
    for name in state.listing.conflicts:
        segment = Segment.parse(name, size) if is_segment(name) else None
        if segment is None or state.is_needed(segment.timeline, segment.end):
            found.append(name)
    return (
        not found,
        f"two contents: {some(found)}; nobody can tell which one recovery needs" if found else "",
        f"two servers fill one archive: find the other (an old primary? a copy?) and stop it; {new_base(cluster)}",
    )


def _own_wal(base: Manifest) -> Stretch:
    start = Lsn.parse(base.start_lsn or "")
    return Stretch(base.server.timeline, start, Lsn.parse(base.end_lsn or base.stop_lsn or ""))


def _received(folder: Path) -> tuple[str, ...]:
    names = {path.name.removesuffix(_PARTIAL) for path in folder.glob("*")}
    return tuple(sorted(filter(is_segment, names)))


def _newest_system(store: Store, cluster: str) -> str:
    newest = max(store.list(f"wal/{cluster}/"), key=lambda info: info.modified, default=None)
    return next((found.system_identifier for found in sealed_files([newest.key] if newest else [])), "0")

"""The archive's continuity: what a listing shows, what the receiver has not sealed yet, and where WAL is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.findings import Answer, some
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.wal import Segment, Stretch, is_segment, sealed_files, stretches
from pgbackup.restore.archive import Listing, list_archive
from pgbackup.restore.received import receiver_folder
from pgbackup.watch.text import megabytes, new_base

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Gap:
    """WAL that is nowhere; the timeline is that of its end."""

    timeline: int
    start: Lsn
    end: Lsn

    def __str__(self) -> str:
        size = megabytes(self.end.position - self.start.position)
        return f"{self.start} to {self.end} on timeline {self.timeline} ({size})"


@dataclass(frozen=True)
class ArchiveState:
    """What there is to recover from: the archive, the receiver's folder, the physical backup to start from."""

    listing: Listing
    received: tuple[Segment, ...]
    base: Manifest | None

    @property
    def covered(self) -> tuple[Stretch, ...]:
        """The WAL that is anywhere; a segment that is still being received counts as whole."""
        found = stretches([*self.listing.segments, *self.received])
        return found if self.base is None else (*found, _own_wal(self.base))

    def end(self, timeline: int) -> Lsn | None:
        """Return the position behind the last archived segment of a timeline or an earlier one."""
        return max((one.end for one in self.listing.segments if one.timeline <= timeline), default=None)

    def reach(self, timeline: int) -> Lsn | None:
        """Return the position up to which anything is anywhere."""
        return max((one.end for one in self.covered if one.timeline <= timeline), default=None)

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
    return ArchiveState(listing, tuple(Segment.parse(name, size) for name in names) if size else (), base)


def continuity(state: ArchiveState, cluster: str) -> Answer:
    """Judge the gaps: one behind the newest backup's start ends what can be reached from it."""
    found = tuple(gaps(state.covered))
    needed = [gap for gap in found if state.is_needed(gap.timeline, gap.end)]
    whole = ", ".join(f"{one.start} to {one.end} on timeline {one.timeline}" for one in state.listing.stretches)
    if needed:
        start = state.base.id if state.base else "any backup"
        return (
            False,
            f"missing: {some(map(str, needed))}; from {start} no moment behind that can be reached",
            f"look for them in the server's pg_wal before they are recycled; {new_base(cluster)}",
        )
    if found:
        newest = state.base.id if state.base else ""
        return True, f"{whole}; older than {newest} are missing: {some(map(str, found))}: that limits the window", ""
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


def gaps(found: Iterable[Stretch]) -> Iterator[Gap]:
    """Yield what lies between the stretches of a timeline, and between the end of one and the beginning of the next.

    A timeline begins with the segment in which it left the one before: a later beginning is a gap too.
    """
    timeline, reach = 0, Lsn(0)
    for one in sorted(found, key=lambda stretch: (stretch.timeline, stretch.start)):
        if timeline and one.start > reach:
            yield Gap(one.timeline, reach, one.start)
        reach = max(reach, one.end) if one.timeline == timeline else one.end
        timeline = one.timeline


def _own_wal(base: Manifest) -> Stretch:
    start = Lsn.parse(base.start_lsn or "")
    return Stretch(base.server.timeline, start, Lsn.parse(base.end_lsn or base.stop_lsn or ""))


def _received(folder: Path) -> tuple[str, ...]:
    names = {path.name.removesuffix(_PARTIAL) for path in folder.glob("*")}
    return tuple(sorted(filter(is_segment, names)))


def _newest_system(store: Store, cluster: str) -> str:
    newest = max(store.list(f"wal/{cluster}/"), key=lambda info: info.modified, default=None)
    return next((found.system_identifier for found in sealed_files([newest.key] if newest else [])), "0")

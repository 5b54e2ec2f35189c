"""Put the WAL of a plan into pg_wal: whole, checked, of the right timelines, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.target import Latest
from pgbackup.domain.wal import Segment, Stretch, is_segment
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover.sources import anywhere
from pgbackup.restore.archive import fetch_wal, list_archive
from pgbackup.restore.chain import Link, unpack
from pgbackup.restore.measure import measured
from pgbackup.restore.physical import refuse_tablespace_creation
from pgbackup.restore.received import receiver_folder
from pgbackup.store import LocalStore

log = logging.getLogger(__name__)


def stage_wal(site: Site, plan: RecoveryPlan, bundles: Sequence[Link], server: ThrowAwayServer, *, jobs: int) -> None:
    """Stage what the plan names and every history file, beside the links' own WAL that is there already.

    Raises RefusedError when some of it is gone or damaged, UnfitError when replay would create a tablespace at the
    source's path.
    """
    folder = server.data / "pg_wal"
    needed = {segment.name for one in plan.wal for segment in _segments(one, plan.segment_size)}
    here = {path.name for path in folder.iterdir()}
    with measured(site, plan.cluster, plan.repository, "stage", lambda: len(needed - here) * plan.segment_size):
        staging = _Staging(site, plan, folder, jobs)
        for link in bundles:
            staging.bring(_unbundled(site, link), needed)
        archived = {segment.name for one in plan.archived for segment in _segments(one, plan.segment_size)}
        anywhere(site, plan.repositories, lambda store: staging.bring_all(store, archived))
        for path in folder.iterdir():
            if is_segment(path.name) and path.name not in needed:
                path.unlink()  # of a branch that this history left: the server would follow it
        staging.refuse_missing(needed)
        end = _received(site, plan, folder) if isinstance(plan.stop, Latest) else plan.wal[-1].end
        for one in (*plan.wal[:-1], dataclasses.replace(plan.wal[-1], end=end)):
            refuse_tablespace_creation(site.runner, server, one.timeline, one.start, one.end)


def _segments(one: Stretch, size: int) -> Iterator[Segment]:
    for number in range(one.start.position // size, one.end.position // size):
        yield Segment(one.timeline, number, size)


@dataclasses.dataclass(frozen=True)
class _Staging:
    """A pg_wal that is being filled. ``known`` has the content that each segment had in the first archive with it."""

    site: Site
    plan: RecoveryPlan
    folder: Path
    jobs: int
    known: dict[str, str] = dataclasses.field(default_factory=dict)

    def bring_all(self, store: Store, names: set[str]) -> None:
        """Bring segments from a repository, and all history files; raises RefusedError when it lacks one."""
        self.bring(store, names)
        self.refuse_missing(names)

    def bring(self, store: Store, names: set[str]) -> None:
        """Bring what an archive has of segments, and all history files; what is here already stays."""
        listing = list_archive(store, self.plan.cluster, self.plan.system_identifier)
        found = [one for one in listing.segments.values() if one.name in names - set(listing.conflicts)]
        wanted = [one for one in found if self.known.setdefault(one.name, one.digest) == one.digest]
        wanted.extend(listing.histories.values())
        if wanted:
            with self.site.keyring.opened() as unlock:
                fetch_wal(self.site, store, wanted, self.folder, unlock, jobs=self.jobs)

    def refuse_missing(self, names: set[str]) -> None:
        """Raise RefusedError unless all of these are here."""
        missing = sorted(name for name in names if not (self.folder / name).exists())
        if missing:
            raise RefusedError(
                f"{missing[0]} and {len(missing) - 1} more WAL segments of the plan are gone from the archive",
                hint="drop this recovery and plan it again: `pgbackup plan-recovery`",
            )


def _unbundled(site: Site, link: Link) -> Store:
    """Unpack a bundle: a small archive of its own."""
    folder = link.files / "bundle"
    folder.mkdir(mode=0o700, exist_ok=True)
    unpack(site.runner, link.files / "wal.tar", folder)
    return LocalStore(folder)


def _received(site: Site, plan: RecoveryPlan, folder: Path) -> Lsn:
    """Add what a receiver on this machine has behind the archive's end: whole segments, then the unfinished one.

    Return where the last of them ends.
    """
    here = receiver_folder(site.settings, plan.cluster) / plan.system_identifier
    segment = Segment.holding(plan.wal[-1].end, plan.timeline, plan.segment_size)
    while _copied(here / segment.name, folder / segment.name):
        segment = segment.next()
    if _copied(here / f"{segment.name}.partial", folder / segment.name):
        log.info("the unfinished segment %s of the receiver is used too", segment.name)
        segment = segment.next()
    return segment.start


def _copied(source: Path, target: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(source, target)
        return True
    return False

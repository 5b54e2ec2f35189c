"""Look at the local repository: the windows, the archived WAL, the gaps, the holds. Takes a listing of all of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.hold import HOLDS, RELEASES, standing
from pgbackup.domain.ids import BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Kind
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.prospect import Covered, Keeping, Missing, Prospect, Reachable
from pgbackup.domain.rates import Rates, learned
from pgbackup.domain.recovery import plan_recovery
from pgbackup.domain.survey import Holdings, survey
from pgbackup.domain.target import Latest
from pgbackup.domain.wal import Segment, Stretch, gaps
from pgbackup.restore.reach import read_holdings

log = logging.getLogger(__name__)


def look(site: Site, cluster: str) -> Prospect:
    """Look at what can be recovered now; raises what read_holdings raises."""
    now = site.clock()
    holdings = read_holdings(site, site.local, cluster)
    rates = learned(site.catalog.measurements(cluster, site.local.name))
    return prospect(holdings, tuple(_holds(site.local, cluster, now)), now, rates)


def prospect(holdings: Holdings, holds: tuple[Keeping, ...], now: datetime, rates: Rates | None = None) -> Prospect:
    """Say what a recovery from these holdings has to expect."""
    coverage = tuple(_covered(holdings))
    try:
        seconds, refusal = plan_recovery(holdings, Latest(), rates=rates).seconds, ""
    except RefusedError as error:
        seconds, refusal = None, str(error)
    return Prospect(
        cluster=holdings.cluster,
        seen_at=now,
        windows=tuple(_windows(holdings)),
        coverage=coverage,
        gaps=tuple(_missing(holdings, coverage)),
        holds=holds,
        segment_bytes=sum(one.end.position - one.start.position for one in holdings.stretches),
        predicted_seconds=seconds,
        refusal=refusal,
    )


def _windows(holdings: Holdings) -> Iterator[Reachable]:
    for timeline in holdings.timelines if holdings.links else ():
        try:
            windows = survey(holdings, timeline).windows.values()
        except RefusedError:
            continue  # no backup leads there
        yield from (Reachable(timeline, one.earliest, one.latest) for one in windows)


def _covered(holdings: Holdings) -> Iterator[Covered]:
    size = holdings.segment_size
    for one in holdings.stretches:
        first = holdings.sidecar(Segment.holding(one.start, one.timeline, size))
        last = holdings.sidecar(Segment.holding(one.end.minus(1), one.timeline, size))
        earliest = first.first_commit or first.sealed_at
        latest = max(last.last_commit or last.sealed_at, earliest)
        yield Covered(one.timeline, earliest, latest, str(one.start), str(one.end))


def _missing(holdings: Holdings, coverage: tuple[Covered, ...]) -> Iterator[Missing]:
    """Yield the gaps, dated by what is known on either side of each."""
    own = [Stretch(link.timeline, link.start, link.end) for link in holdings.links]
    known = [(Lsn.parse(one.start), one.earliest) for one in coverage]
    known += [(Lsn.parse(one.end), one.latest) for one in coverage]
    known += [(link.stop, link.moment) for link in holdings.links]
    for gap in gaps([*holdings.stretches, *own], holdings.histories):
        yield Missing(
            gap.timeline,
            max((moment for position, moment in known if position <= gap.start), default=None),
            min((moment for position, moment in known if position >= gap.end), default=None),
            str(gap.start),
            str(gap.end),
        )


def _holds(store: Store, cluster: str, now: datetime) -> Iterator[Keeping]:
    """Yield the holds that stand, from one listing of each kind; a hold that cannot be read is told as one."""
    found: dict[BackupId, dict[str, bytes]] = defaultdict(dict)
    for kind in Kind:
        for info in store.list(f"{kind.value}/{cluster}_"):
            directory, _, name = info.key.removeprefix(f"{kind.value}/").partition("/")
            if not name.startswith((HOLDS, RELEASES)):
                continue
            try:
                backup_id = BackupId.parse(directory)
            except ConfigurationError:
                continue
            if backup_id.cluster == cluster:
                found[backup_id][name] = store.read(info.key)
    for backup_id, objects in found.items():
        try:
            holds = standing([objects], now)
        except RefusedError as error:
            yield Keeping(str(backup_id), "unknown", str(error), None)
            continue
        yield from (Keeping(hold.backup_id, hold.owner, hold.reason, hold.expires_at) for hold in holds)

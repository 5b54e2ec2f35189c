"""Invented histories of a cluster: timelines, commits out of order, backups, bundles, an archive with holes.

The clock goes with the position: one second a position. A commit's stamp is taken a little before its record is
written, so that stamps are not in order; transactions end in another order than they begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Verdict
from pgbackup.domain.survey import Holdings, Link
from pgbackup.domain.wal import RestorePoint, Sealed, Segment, Switch, stretches

SIZE = 100  # the planner takes any size
SEGMENTS = 12
ZERO = datetime(2026, 1, 31, tzinfo=UTC)


def clock(position: int) -> datetime:
    return ZERO + timedelta(seconds=position)


@dataclass(frozen=True)
class Commit:
    position: int
    stamp: datetime
    xid: int
    point: str | None = None


@dataclass(frozen=True)
class History:
    """``origins`` are timelines with the (parent, position) that they branched at; ``commits`` by timeline."""

    origins: dict[int, tuple[int, int]]
    commits: dict[int, tuple[Commit, ...]]
    links: tuple[Link, ...]
    archive: frozenset[tuple[int, int]]
    unknown: frozenset[tuple[int, int]]
    reads: list[Segment] = field(default_factory=list)

    def switches(self, timeline: int) -> tuple[Switch, ...]:
        if timeline not in self.origins:
            return ()
        parent, position = self.origins[timeline]
        return (*self.switches(parent), Switch(parent, Lsn(position)))

    def story(self, timeline: int) -> tuple[Commit, ...]:
        """Every commit on the way to a timeline, in order."""
        if timeline not in self.origins:
            return self.commits[timeline]
        parent, position = self.origins[timeline]
        before = tuple(one for one in self.story(parent) if one.position < position)
        return before + tuple(one for one in self.commits[timeline] if one.position >= position)

    def timeline_of(self, number: int, timeline: int) -> int:
        """Which timeline's file a server wants for a segment: the newest one that begins in it or before."""
        while timeline in self.origins and self.origins[timeline][1] // SIZE > number:
            timeline = self.origins[timeline][0]
        return timeline

    def holdings(self, links: tuple[Link, ...] | None = None) -> Holdings:
        segments = [Segment(timeline, number, SIZE) for timeline, number in self.archive]
        return Holdings(
            cluster="streamflix",
            system_identifier="7",
            repository="local",
            segment_size=SIZE,
            links=self.links if links is None else links,
            stretches=stretches(segments),
            histories={timeline: self.switches(timeline) for timeline in self.origins},
            sidecar=self.sidecar,
        )

    def sidecar(self, segment: Segment) -> Sealed:
        assert (segment.timeline, segment.number) in self.archive
        self.reads.append(segment)
        inside = [one for one in self.story(segment.timeline) if one.position // SIZE == segment.number]
        known = (segment.timeline, segment.number) not in self.unknown
        points = [
            RestorePoint(name=one.point, lsn=str(Lsn(one.position)), moment=one.stamp) for one in inside if one.point
        ]
        return Sealed.model_construct(
            sealed_at=clock(segment.end.position),
            commits=len(inside) if known else None,
            first_commit=min((one.stamp for one in inside), default=None) if known else None,
            last_commit=max((one.stamp for one in inside), default=None) if known else None,
            first_xid=min((one.xid for one in inside), default=None) if known else None,
            last_xid=max((one.xid for one in inside), default=None) if known else None,
            restore_points=tuple(points) if known else None,
        )


@st.composite
def histories(draw: st.DrawFn) -> History:
    origins: dict[int, tuple[int, int]] = {}
    for timeline in range(2, draw(st.integers(1, 3)) + 1):
        parent = draw(st.integers(1, timeline - 1))
        begin = origins[parent][1] if parent in origins else 0
        origins[timeline] = (parent, draw(st.integers(min(begin + 1, SIZE * SEGMENTS - 1), SIZE * SEGMENTS - 1)))
    timelines = [1, *origins]
    commits = {timeline: tuple(draw(_commits(timeline))) for timeline in timelines}
    blank = History(origins, commits, (), frozenset(), frozenset())
    everything = [(timeline, number) for timeline in timelines for number in range(_first(origins, timeline), SEGMENTS)]
    archive = set(everything) - draw(st.sets(st.sampled_from(everything), max_size=6))
    unknown = (
        set(everything) if draw(st.booleans()) and draw(st.booleans()) else draw(st.sets(st.sampled_from(everything)))
    )
    links = tuple(draw(_links(blank, timelines)))
    return History(origins, commits, links, frozenset(archive), frozenset(unknown))


def _first(origins: dict[int, tuple[int, int]], timeline: int) -> int:
    return origins[timeline][1] // SIZE if timeline in origins else 0


@st.composite
def _commits(draw: st.DrawFn, timeline: int) -> Iterator[Commit]:
    positions = sorted(draw(st.sets(st.integers(1, SIZE * SEGMENTS - 1), max_size=25)))
    for number, position in enumerate(positions):
        xid = 2**32 + timeline * 1000 + number * 10 + draw(st.integers(-35, 35))
        late = timedelta(seconds=draw(st.integers(1, 60)))
        point = draw(st.sampled_from([None, None, None, "before", "after"]))
        yield Commit(position, clock(position) - late, xid % 2**32, point)


@st.composite
def _links(draw: st.DrawFn, history: History, timelines: list[int]) -> Iterator[Link]:
    made: list[Link] = []
    for number in range(draw(st.integers(0, 6))):
        method = draw(st.sampled_from([None, None, "block", "wal"]))
        parents = [one for one in made if method is not None and (method == "wal" or one.method != "wal")]
        parent = draw(st.sampled_from(parents)) if parents else None
        if parent is None:
            method = None
        timeline = parent.timeline if parent else draw(st.sampled_from(timelines))
        lowest = max(_first(history.origins, timeline) * SIZE, parent.stop.position if parent else 0)
        if lowest > SIZE * SEGMENTS - 4:
            continue
        start, stop, moment, end = sorted(
            draw(st.lists(st.integers(lowest + 1, SIZE * SEGMENTS), min_size=4, max_size=4, unique=True))
        )
        if method == "wal":
            start, stop = (start // SIZE * SIZE,) * 2
        before = [one.xid for one in history.story(timeline) if one.position < moment]
        made.append(
            Link(
                id=f"link{number}",
                method=method,
                parent=draw(st.sampled_from([parent.id, parent.id, parent.id, "gone"])) if parent else None,
                timeline=timeline,
                start=Lsn(start),
                stop=Lsn(stop),
                end=Lsn(end),
                moment=clock(moment),
                next_xid=max(before, default=0) + 1,
                stored_bytes=draw(st.integers(1, 2000)),
                data_bytes=draw(st.integers(1, 2000)),
                unlogged_tables=(),
                verdict=draw(st.sampled_from([Verdict.VERIFIED, Verdict.VERIFIED, Verdict.REJECTED, None])),
            )
        )
    yield from made

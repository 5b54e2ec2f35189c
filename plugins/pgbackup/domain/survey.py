"""How far one repository's physical backups and WAL reach: the chains that a recovery can start from. Pure.

WAL is looked at segment by segment, by number. On the way to a timeline each number belongs to the newest timeline that
had begun by then: its file holds a copy of the older one's beginning, and a server asks for it first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import Verdict
from pgbackup.domain.wal import Sealed, Segment, Stretch, Switch


@dataclass(frozen=True)
class Link:
    """A physical backup. Its own WAL reaches from ``start`` to ``end``; it is consistent from ``stop`` on.

    ``method`` is None for a base, ``block`` or ``wal`` (nothing but WAL) for an incremental. ``moment`` lies behind
    ``stop``, and so do the commits of ``next_xid`` and all later transactions (None: unknown). ``data_bytes`` is what
    it unpacks to.
    """

    id: str
    method: str | None
    parent: str | None
    timeline: int
    start: Lsn
    stop: Lsn
    end: Lsn
    moment: datetime
    next_xid: int | None
    stored_bytes: int
    data_bytes: int
    unlogged_tables: tuple[str, ...]
    verdict: Verdict | None


@dataclass(frozen=True)
class Holdings:
    """What one repository holds of one system. ``sidecar`` describes an archived segment."""

    cluster: str
    system_identifier: str
    repository: str
    segment_size: int
    links: tuple[Link, ...]
    stretches: tuple[Stretch, ...]
    histories: Mapping[int, tuple[Switch, ...]]
    sidecar: Callable[[Segment], Sealed]

    @property
    def timelines(self) -> tuple[int, ...]:
        """Every timeline that anything is known of, in order."""
        return tuple(
            sorted({*self.histories, *(one.timeline for one in self.stretches), *(one.timeline for one in self.links)})
        )


@dataclass(frozen=True)
class Leg:
    """The numbers of the segments that one timeline holds on the way to another; ``left`` is None for the last one."""

    timeline: int
    numbers: range
    left: Lsn | None


@dataclass(frozen=True)
class Way:
    """A chain to start from: replay begins in segment ``first``; ``beyond`` is the first number that is missing."""

    chain: tuple[Link, ...]
    first: int
    beyond: int
    own: range

    @property
    def last(self) -> Link:
        """The link whose WAL replay begins with."""
        return self.chain[-1]


@dataclass(frozen=True)
class Window:
    """Every moment from ``earliest`` to ``latest``, every position from ``start`` to ``end`` can be recovered.

    ``missing`` is the segment behind it where WAL of the same history goes on behind a gap.
    """

    earliest: datetime
    latest: datetime
    start: Lsn
    end: Lsn
    missing: Segment | None

    def __str__(self) -> str:
        behind = f"; behind it {self.missing.name} is missing" if self.missing else ""
        return f"{show(self.earliest)} to {show(self.latest)} ({self.start} to {self.end}){behind}"


def show(moment: datetime) -> str:
    """Print a moment as people type it back."""
    return moment.isoformat(" ").replace("+00:00", "Z")


@dataclass(frozen=True)
class Survey:
    """What can be reached on the way to one timeline."""

    holdings: Holdings
    timeline: int
    legs: tuple[Leg, ...]
    ways: tuple[Way, ...]
    beyond: int

    def segment(self, number: int) -> Segment:
        """Return the segment of a number on this way."""
        timeline = next(leg.timeline for leg in reversed(self.legs) if number in leg.numbers)
        return Segment(timeline, number, self.holdings.segment_size)

    def sidecar(self, number: int) -> Sealed | None:
        """Return what the archive says of a segment, None where it does not hold it."""
        held = any(number in numbers for numbers in self.archived)
        return self.holdings.sidecar(self.segment(number)) if held else None

    def bound(self, number: int, way: Way) -> datetime:
        """Return a moment that no commit of a segment is stamped later than."""
        sealed = self.sidecar(number)
        if sealed is not None:
            return sealed.last_commit or sealed.sealed_at
        return next((link.moment for link, numbers in self.bundles if number in numbers), way.last.moment)

    @functools.cached_property
    def archived(self) -> tuple[range, ...]:
        """The numbers that the archive holds."""
        return tuple(
            numbers
            for one in self.holdings.stretches
            if (numbers := on_the_way(self.legs, one.timeline, one.start, one.end, self.holdings.segment_size))
        )

    @functools.cached_property
    def bundles(self) -> tuple[tuple[Link, range], ...]:
        """The bundles of WAL that may be used, with the numbers that they hold."""
        return tuple(_bundles(self.holdings, self.legs))

    @functools.cached_property
    def windows(self) -> Mapping[int, Window]:
        """What can be reached by the ways that end at the same number, in order; reads a few sidecars."""
        reached = sorted({way.beyond for way in self.ways})
        return {beyond: self._window([way for way in self.ways if way.beyond == beyond]) for beyond in reached}

    def _window(self, ways: Sequence[Way]) -> Window:
        beyond = ways[0].beyond
        return Window(
            min(way.last.moment for way in ways),
            max(self._last_commit(ways), *(way.last.moment for way in ways)),
            min(way.last.stop for way in ways),
            Lsn(beyond * self.holdings.segment_size),
            self.segment(beyond) if beyond < self.beyond else None,
        )

    def _last_commit(self, ways: Sequence[Way]) -> datetime:
        """Return the stamp of the last commit, or where nobody knows it the moment that it cannot be later than."""
        for number in range(ways[0].beyond - 1, min(way.first for way in ways) - 1, -1):
            sealed = self.sidecar(number)
            if sealed is None or sealed.commits is None or sealed.last_commit is not None:
                return self.bound(number, ways[0])
        return ways[0].last.moment


def survey(holdings: Holdings, timeline: int | None) -> Survey:
    """Find the ways to a timeline, by default the newest; raises RefusedError when there is none."""
    if not holdings.links:
        raise RefusedError(
            f"repository {holdings.repository} holds no physical backup of {holdings.cluster}",
            hint="nothing but its dumps can be restored; take a base backup: pgbackup backup full",
        )
    wanted = timeline or holdings.timelines[-1]
    if wanted not in holdings.timelines:
        known = ", ".join(map(str, holdings.timelines))
        raise RefusedError(f"nothing is known of timeline {wanted}", hint=f"--timeline takes one of {known}")
    legs = _legs(wanted, holdings.histories.get(wanted, ()), holdings.segment_size)
    found = Survey(holdings, wanted, legs, (), 0)
    ways = tuple(sorted(_ways(found), key=lambda way: (way.last.stop, way.last.id)))
    if not ways:
        raise _no_way(holdings, wanted)
    ends = [numbers.stop for numbers in found.archived]
    ends += [numbers.stop for _, numbers in found.bundles]
    return Survey(holdings, wanted, legs, ways, max([*ends, *(way.beyond for way in ways)]))


def on_the_way(legs: Sequence[Leg], timeline: int, start: Lsn, end: Lsn, size: int) -> range:
    """Return the numbers of the segments from ``start`` to ``end`` that count on this way."""
    for leg in legs:
        if leg.timeline == timeline:
            first = max(start.position // size, leg.numbers.start)
            return range(first, max(first, min(-(-end.position // size), leg.numbers.stop)))
    return range(0)


def _legs(timeline: int, history: Iterable[Switch], size: int) -> tuple[Leg, ...]:
    legs: list[Leg] = []
    begin = 0
    for switch in history:
        number = switch.position.position // size
        legs.append(Leg(switch.timeline, range(begin, number), switch.position))
        begin = number
    return (*legs, Leg(timeline, range(begin, 1 << 63), None))


def _ways(found: Survey) -> Iterator[Way]:
    """Yield a way for each link with files that a recovery can start from."""
    size = found.holdings.segment_size
    for link in found.holdings.links:
        chain = _chain(found.holdings.links, link)
        if link.method == "wal" or chain is None or not all(_lies_on(found.legs, one) for one in chain):
            continue
        own = on_the_way(found.legs, link.timeline, link.start, link.end, size)
        first = link.start.position // size
        beyond = first
        for numbers in sorted((own, *found.archived, *(held for _, held in found.bundles)), key=lambda one: one.start):
            if numbers.start <= beyond < numbers.stop:
                beyond = numbers.stop
        if beyond * size >= link.stop.position:
            yield Way(chain, first, beyond, own)


def _bundles(holdings: Holdings, legs: Sequence[Leg]) -> Iterator[tuple[Link, range]]:
    for link in holdings.links:
        if link.method == "wal" and not _is_rejected(holdings.links, link):
            numbers = on_the_way(legs, link.timeline, link.start, link.end, holdings.segment_size)
            if numbers:
                yield link, numbers


def _ancestry(links: Iterable[Link], link: Link) -> tuple[Link, ...]:
    """Return a link with those that it stands on, itself first, as far as they are there."""
    by_id = {one.id: one for one in links}
    found = [link]
    while (parent := by_id.get(found[-1].parent or "")) is not None and parent not in found:
        found.append(parent)
    return tuple(found)


def _is_rejected(links: Iterable[Link], link: Link) -> bool:
    return any(one.verdict is Verdict.REJECTED for one in _ancestry(links, link))


def _chain(links: Iterable[Link], link: Link) -> tuple[Link, ...] | None:
    """Return the chain of a link, the base first; None when it is broken, rejected, or holds more than files."""
    chain = _ancestry(links, link)[::-1]
    whole = chain[0].method is None and all(one.method == "block" for one in chain[1:])
    return None if not whole or _is_rejected(links, link) else chain


def _lies_on(legs: Sequence[Leg], link: Link) -> bool:
    """Tell whether a link became consistent before this history left its timeline."""
    return any(leg.timeline == link.timeline and (leg.left is None or link.stop <= leg.left) for leg in legs)


def _no_way(holdings: Holdings, timeline: int) -> RefusedError:
    sound = [link for link in holdings.links if link.method != "wal" and _chain(holdings.links, link) is not None]
    if not sound:
        return RefusedError(
            f"no physical backup in {holdings.repository} is usable: each is rejected, or stands on one that is or on"
            " one that is gone",
            hint="try another repository (--from); `pgbackup show ID` says why a backup was rejected",
        )
    places = ", ".join(f"{link.id} on timeline {link.timeline} at {link.stop}" for link in sound)
    return RefusedError(
        f"no backup leads to timeline {timeline}: each is on another branch, or its WAL is missing",
        detail=places,
        hint=f"--timeline chooses another one of {', '.join(map(str, holdings.timelines))}",
    )

"""How fast a cluster is recovered: the usual rates, and those that were measured. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from pgbackup.domain.model import Measurement

Physical = Literal["fetch", "unpack", "combine", "stage", "replay"]
"""The steps of a cluster's recovery."""
Rated = Literal[Physical, "restore", "compare"]
"""The steps that have a rate; those of a dump's restore and of all checks are measured by drills."""

_ENOUGH = 8_000_000
_LAST = 15


@dataclass(frozen=True)
class Rates:
    """Bytes a second, and the seconds that a server takes to start; the usual ones are those of bench/physical.

    ``fetch`` counts stored bytes, decrypted on the way, ``restore`` and ``compare`` those of the databases;
    ``measured`` says which steps were measured.
    """

    fetch: float = 400e6
    unpack: float = 700e6
    combine: float = 600e6
    stage: float = 250e6
    replay: float = 160 * 2**20
    start: float = 1.5
    restore: float = 60e6
    compare: float = 100e6
    measured: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say what a prediction is made from."""
        if not self.measured:
            return "nothing was measured yet: predicted from usual rates"
        rest = "" if set(get_args(Physical)) <= set(self.measured) else "; usual ones for the rest"
        return f"predicted from measured rates of {', '.join(self.measured)}{rest}"


def learned(measurements: Iterable[Measurement]) -> Rates:
    """Return the medians of each step's last measurements, which come newest first.

    What is too small does not count: it measures how long programs take to start.
    """
    known = [one for one in measurements if one.bytes >= _ENOUGH]
    found: dict[str, float] = {}
    for step in get_args(Rated):
        rates = [one.bytes / one.seconds for one in known if one.step == step][:_LAST]
        if rates:
            found[step] = statistics.median(rates)
    return Rates(**found, measured=tuple(found))

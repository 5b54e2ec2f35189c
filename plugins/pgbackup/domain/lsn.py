"""Positions in the WAL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from pgbackup.domain.errors import ConfigurationError

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass(frozen=True, order=True)
class Lsn:
    """A byte position in the WAL, printed as PostgreSQL does.

    >>> str(Lsn.parse("16/B374D848"))
    '16/B374D848'
    """

    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``X/X``; raises ConfigurationError for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigurationError("not a WAL position", detail=repr(text[:40]), hint="such as 16/B374D848")
        return cls((int(match[1], 16) << 32) + int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.position >> 32:X}/{self.position & 0xFFFFFFFF:08X}"

    def plus(self, count: int) -> Lsn:
        """Return the position ``count`` bytes behind."""
        return Lsn(self.position + count)

    def minus(self, count: int) -> Lsn:
        """Return the position ``count`` bytes before, not before the beginning."""
        return Lsn(max(self.position - count, 0))

    def floor(self, size: int) -> Lsn:
        """Return the beginning of the segment of ``size`` bytes that this position lies in."""
        return Lsn(self.position - self.position % size)

    def segment(self, timeline: int, size: int) -> str:
        """Return the name of the segment file of ``size`` bytes that holds the byte before this position."""
        number = max(self.position - 1, 0) // size
        per_file = (1 << 32) // size
        return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"

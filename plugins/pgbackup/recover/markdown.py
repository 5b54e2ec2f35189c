"""How the texts that people read of a recovery are written: Markdown, in which a name is never more than a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from pgbackup.domain.model import Finding
from pgbackup.domain.survey import show


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Write a table, line by line."""
    for row in (header, tuple("---" for _ in header), *rows):
        yield f"| {' | '.join(row)} |"


def findings_table(findings: Iterable[Finding]) -> Iterator[str]:
    """Write what was found, and what to do about what is not as it should be."""
    rows = [
        (plain(one.name), "yes" if one.ok else "**NO**", plain(one.detail), "" if one.ok else plain(one.hint))
        for one in findings
    ]
    if rows:
        yield from table(("finding", "holds", "detail", "to do"), rows)


def plain(text: str) -> str:
    """Return a text that somebody chose as Markdown that is read as nothing else."""
    line = " ".join(text.split()).replace("\\", "\\\\")
    for character in "`*[]<>|":
        line = line.replace(character, f"\\{character}")
    return line


def moment(time: datetime | None) -> str:
    """Write a moment in UTC."""
    return "unknown" if time is None else show(time.astimezone(UTC))


def span(time: timedelta) -> str:
    """Write a duration."""
    return str(timedelta(seconds=round(time.total_seconds())))


def megabytes(count: int) -> str:
    """Write a size, nothing for none."""
    return f"{count / 1e6:.1f} MB" if count else ""


def in_seconds(seconds: float) -> str:
    """Write a measured or predicted time."""
    return f"{seconds:.1f} s"

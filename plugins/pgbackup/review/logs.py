"""The backup logs of a period: what was not well, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pgbackup.domain.errors import UnavailableError
from pgbackup.domain.findings import Answer, some

_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z (?P<level>[A-Z]+) (?P<text>.*)")
_MOST = 64 << 20
"""Bytes that are read of a period's logs, the newest first."""


def errors_in(folder: Path, cluster: str, since: datetime) -> Answer:
    """No run of the period logged an error; warnings are counted. Raises UnavailableError when nothing can be read."""
    found: dict[str, Counter[str]] = {"WARNING": Counter(), "ERROR": Counter(), "CRITICAL": Counter()}
    files = left = 0
    for path in _files(folder, cluster, since):
        size = path.stat().st_size
        if left + size > _MOST:
            break
        files, left = files + 1, left + size
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = _LINE.match(line)
            if match and match["level"] in found:
                found[match["level"]][match["text"][:160]] += 1
    errors = found["ERROR"] + found["CRITICAL"]
    shown = [f"{count} x {text}" for text, count in (errors or found["WARNING"]).most_common(3)]
    counts = f"{files} files in {folder}, {errors.total()} errors, {found['WARNING'].total()} warnings"
    return (
        not errors,
        f"{counts}: {some(shown)}" if shown else counts,
        f"read them: `grep -h ' ERROR ' {folder}/{cluster}_*.log`; each error says what to do",
    )


def _files(folder: Path, cluster: str, since: datetime) -> Iterator[Path]:
    """Return the logs that were written to in the period, newest first."""
    try:
        dated = [(path.stat().st_mtime, path) for path in folder.glob(f"{cluster}_*.log")]
    except OSError as error:
        raise UnavailableError(f"the logs in {folder} cannot be read", detail=error.strerror) from None
    return (path for moment, path in sorted(dated, reverse=True) if moment >= since.timestamp())

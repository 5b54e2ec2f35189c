"""Where reports are kept, as people read them; beside one may lie the numbers that the next is compared with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.settings import Settings
from pgbackup.scratch import make_private

_NAME = re.compile(r"(\d{8}_\d{6})-([a-z][a-z0-9_-]{0,80})", re.ASCII)
_STAMP = "%Y%m%d_%H%M%S"
_NEWEST = 60


@dataclass(frozen=True)
class Kept:
    """A report; ``headline`` is what it says in a line."""

    name: str
    at: datetime
    procedure: str
    headline: str


def keep_report(
    settings: Settings, cluster: str, at: datetime, procedure: str, *, html: str, text: str, numbers: bytes = b""
) -> Path:
    """Write a report (HTML, Markdown, JSON of its numbers), readable by us alone, in the place of one of that moment.

    ``at`` is UTC. Return the HTML's path; raises UnavailableError when it cannot be written.
    """
    folder = shelf_of(settings, cluster)
    stem = f"{at:{_STAMP}}-{procedure}"
    files: Mapping[str, bytes] = {"json": numbers, "html": html.encode(), "md": text.encode()}
    try:
        make_private(folder)
        for suffix, content in files.items():
            if content:
                _write(folder / f"{stem}.{suffix}", content)
    except OSError as error:
        raise UnavailableError(f"cannot keep the report in {folder}", detail=error.strerror) from None
    return folder / f"{stem}.html"


def kept_reports(settings: Settings, cluster: str) -> tuple[Kept, ...]:
    """Return the newest reports, newest first."""
    paths = sorted(shelf_of(settings, cluster).glob("*.md"), reverse=True)
    found = ((path, _NAME.fullmatch(path.stem)) for path in paths)
    named = [(path, match[1], match[2]) for path, match in found if match][:_NEWEST]
    return tuple(
        Kept(path.stem, datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC), procedure, _headline(path))
        for path, stamp, procedure in named
    )


def read_report(settings: Settings, cluster: str, name: str) -> str:
    """Return the HTML of a report; raises RefusedError when there is none of that name."""
    if _NAME.fullmatch(name):
        try:
            return (shelf_of(settings, cluster) / f"{name}.html").read_text(encoding="utf-8")
        except OSError:
            pass
    raise RefusedError(f"no report {name!r} of {cluster} is kept")


def shelf_of(settings: Settings, cluster: str) -> Path:
    """Return the folder of a cluster's reports."""
    return settings.paths.reports_folder / cluster


def _headline(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().strip("# \n")
    except OSError:
        return ""


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - its mode is set when it is made
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)

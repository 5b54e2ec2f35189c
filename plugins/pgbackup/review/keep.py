"""Reviews are kept: the report as people read it, and the numbers that the next one is compared with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pgbackup.domain.errors import UnavailableError
from pgbackup.domain.review import Period, Review, review_document, review_of
from pgbackup.domain.settings import Settings

log = logging.getLogger(__name__)


def keep(settings: Settings, review: Review, *, html: str, text: str) -> Path:
    """Write a review's report (HTML and Markdown) and its numbers, readable by us alone; return the report's path.

    Raises UnavailableError when it cannot be written.
    """
    folder = _folder(settings, review.cluster)
    files = {"md": text.encode(), "html": html.encode(), "json": review_document(review)}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for suffix, content in files.items():
            _write(folder / f"{review.stem}.{suffix}", content)
    except OSError as error:
        raise UnavailableError(f"cannot keep the review in {folder}", detail=error.strerror) from None
    return folder / f"{review.stem}.html"


def kept(settings: Settings, cluster: str) -> tuple[Path, ...]:
    """Return the reports that are kept, newest first."""
    return tuple(sorted(_folder(settings, cluster).glob("*.html"), reverse=True))


def newest(settings: Settings, cluster: str, period: Period) -> Review | None:
    """Return the last review of a period; None where there is none that can be read."""
    for path in sorted(_folder(settings, cluster).glob(f"*-{period}.json"), reverse=True):
        try:
            return review_of(path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("%s is not compared with: %s", path, error)
    return None


def _folder(settings: Settings, cluster: str) -> Path:
    return settings.paths.reviews_folder / cluster


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - its mode is set when it is made
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)

"""The WAL archive of one repository, segment by segment, for its rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Store
from pgbackup.domain.retention import StoredSegment
from pgbackup.domain.wal import Archived, Segment, is_segment, sealed_files, segment_file
from pgbackup.restore.archive import read_sidecar


@dataclass(frozen=True)
class SegmentFiles:
    """A segment's objects, the description first: without it a file counts for nothing."""

    stored: StoredSegment
    keys: tuple[str, ...]


def read_wal(
    store: Store, objects: Sequence[ObjectInfo], problems: list[str], *, locked: Callable[[datetime], bool]
) -> Iterator[SegmentFiles]:
    """Yield the archive's segments with all their objects, ``.partial`` and ``.backup`` included; no history file.

    What nobody can judge is left alone, and added to the ``problems``. ``locked`` tells it by when it was written.
    """
    sizes: dict[str, int] = {}
    for archived in sealed_files(one.key for one in objects):
        if is_segment(archived.name) and not sizes.get(archived.system_identifier):
            sizes[archived.system_identifier] = _segment_size(store, archived)
    problems += [
        f"the WAL of system {one} is left alone: nothing says how large its segments are"
        for one, size in sizes.items()
        if not size
    ]
    found: dict[tuple[str, str], list[ObjectInfo]] = {}
    for one in objects:
        place = segment_file(one.key)
        if place is not None and sizes.get(place[0]):
            found.setdefault(place, []).append(one)
    for (system, name), some in found.items():
        try:
            segment = Segment.parse(name, sizes[system])
        except ConfigurationError as error:
            problems.append(f"{name} is left alone: {error.message}")
            continue
        modified = max(one.modified for one in some)
        stored = StoredSegment(system, segment, sum(one.bytes for one in some), modified, locked(modified))
        yield SegmentFiles(stored, _sidecars_first([one.key for one in some]))


def _segment_size(store: Store, archived: Archived) -> int:
    """Return the size of a system's segments as one of them says it; 0 when it is damaged, or contradicts its name."""
    try:
        sealed = read_sidecar(store, archived)
        size = sealed.segment_size or 0
        fits = not sealed.start_lsn or Segment.parse(archived.name, size).start == Lsn.parse(sealed.start_lsn)
    except (RefusedError, ConfigurationError, ZeroDivisionError):
        return 0
    return size if fits else 0


def _sidecars_first(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(keys, key=lambda key: (not key.endswith(".json"), key)))

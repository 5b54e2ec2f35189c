"""Seal what the receiver has finished, in parallel and beside it, oldest first."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.ports import Site
from pgbackup.domain.wal import Segment, history_timeline, is_segment, read_header
from pgbackup.postgres.programs import Programs, find_programs
from pgbackup.wal.journal import Journal
from pgbackup.wal.seal import HEADER_BYTES, follower, publish, store_file

log = logging.getLogger(__name__)

MAJOR = "PG_VERSION"
"""The file in a system's folder that holds its major version, as in PostgreSQL's own folders."""

_LOOK = 0.1
# How long a segment waits for the first bytes of the next one, in which its last record may end.
_SETTLED = 2.0
_SOONEST, _LATEST = 1.0, 30.0


@dataclass(frozen=True)
class _Job:
    """A file to seal. Sidecars are written in order, so that nobody sees a gap that is none: ``before`` goes first."""

    path: Path
    before: threading.Event
    done: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def sealing(site: Site, cluster: str, folder: Path, journal: Journal) -> Iterator[None]:
    """Seal in threads of their own while the block runs; at its end everything finished is tried once more."""
    for left in folder.glob("*/.look-*"):
        shutil.rmtree(left, ignore_errors=True)
    own = _Sealing(site, cluster, folder, journal)
    threads = [threading.Thread(target=own.work) for _ in range(site.settings.cluster(cluster).wal.jobs)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        own.ending.set()
        for thread in threads:
            thread.join()


class _Sealing:
    """Hands the finished files of a receiver's folder to threads.

    What cannot be sealed (full disk, missing key, refused content) stays where it is, is tried again, and keeps its
    entry in the status until it is sealed. Receiving goes on.
    """

    def __init__(self, site: Site, cluster: str, folder: Path, journal: Journal) -> None:
        self.ending = threading.Event()
        self._site = site
        self._cluster = cluster
        self._folder = folder
        self._journal = journal
        self._lock = threading.Lock()
        self._taken: set[Path] = set()
        self._last = threading.Event()
        self._last.set()
        self._failed: dict[Path, tuple[float, float]] = {}  # when to try again, after how long
        self._kept: set[Path] = set()  # sealed history files: they stay, to tell where their timeline began

    def work(self) -> None:
        """Seal until the end."""
        while True:
            ending = self.ending.is_set()
            job = self._next(ending=ending)
            if job is not None:
                self._seal(job)
            elif ending:
                return
            else:
                self.ending.wait(_LOOK)

    def _next(self, *, ending: bool) -> _Job | None:
        with self._lock:
            waiting = [path for path in self._finished() if path not in self._taken]
            self._journal.note(backlog=len(waiting) + len(self._taken))
            for path in waiting:
                if self._is_due(path, ending=ending):
                    job = _Job(path, self._last)
                    self._taken.add(path)
                    self._last = job.done
                    return job
            return None

    def _finished(self) -> list[Path]:
        """Return what waits, oldest first: history files, then segments by their number."""
        found = [path for path in self._folder.glob("[0-9]*/*") if path not in self._kept]
        histories = sorted(path for path in found if history_timeline(path.name) is not None)
        segments = (path for path in found if is_segment(path.name))
        return [*histories, *sorted(segments, key=lambda path: (path.name[8:], path.name))]

    def _is_due(self, path: Path, *, ending: bool) -> bool:
        if path in self._failed:
            return not ending and time.monotonic() >= self._failed[path][0]
        if ending or not is_segment(path.name):
            return True
        with contextlib.suppress(PgBackupError), path.open("rb") as file:
            segment = Segment.parse(path.name, read_header(file.read(HEADER_BYTES)).segment_size)
            age = self._site.clock().timestamp() - path.stat().st_mtime
            return age >= _SETTLED or follower(path, segment) is not None
        return True  # it will be refused

    def _seal(self, job: _Job) -> None:
        path = job.path
        began = time.monotonic()
        try:
            programs = self._programs(path.parent)
            sealed = store_file(self._site, self._cluster, path, system_identifier=path.parent.name, programs=programs)
            job.before.wait()
            publish(self._site, sealed)
        except Exception as error:  # noqa: BLE001 - whatever it is must not end receiving
            self._note_failure(path, error)
        else:
            log.info("%s sealed: %d bytes in %.2f s", path.name, sealed.stored_bytes, time.monotonic() - began)
            self._journal.unsealed(path.name, None)
            self._journal.note(sealed_name=path.name, sealed_at=sealed.sealed_at)
            self._failed.pop(path, None)
            if is_segment(path.name):
                path.unlink()
            else:
                self._kept.add(path)
        finally:
            job.done.set()
            with self._lock:
                self._taken.discard(path)

    def _programs(self, folder: Path) -> Programs:
        """Return the programs that read a system's WAL, also when its server is gone."""
        return find_programs(self._site.settings.paths.postgres_bin, major=int((folder / MAJOR).read_text()))

    def _note_failure(self, path: Path, error: Exception) -> None:
        _, delay = self._failed.get(path, (0.0, _SOONEST / 2))
        delay = min(2 * delay, _LATEST)
        self._failed[path] = (time.monotonic() + delay, delay)
        self._journal.unsealed(path.name, str(error) or type(error).__name__)
        log.error(
            "cannot seal %s: %s",
            path.name,
            error,
            exc_info=None if isinstance(error, PgBackupError | OSError) else error,
        )

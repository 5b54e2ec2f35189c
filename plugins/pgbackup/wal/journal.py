"""What the receiver says of itself, in a file that others read."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from pgbackup.domain.ports import Site
from pgbackup.restore.received import ReceiverStatus, receiver_status, status_file

log = logging.getLogger(__name__)

_EVERY = 1.0


class Journal:
    """The receiver's status; any thread notes, one thread writes."""

    def __init__(self, site: Site, cluster: str) -> None:
        self._path = status_file(site.settings, cluster)
        self._clock = site.clock
        self._lock = threading.Lock()
        self._written = 0.0
        now = site.clock()
        known = ("system_identifier", "sealed_name", "sealed_at")
        last = receiver_status(site.settings, cluster)
        kept = {name: getattr(last, name) for name in known} if last else {}
        self._status = ReceiverStatus(pid=os.getpid(), started_at=now, told_at=now, **kept)

    @property
    def status(self) -> ReceiverStatus:
        """The present status."""
        with self._lock:
            return self._status

    def note(self, **changes: Any) -> None:
        """Change the status."""
        with self._lock:
            self._status = self._status.model_copy(update=changes)

    def unsealed(self, name: str, why: str | None) -> None:
        """Note why a file cannot be sealed, None once it is."""
        with self._lock:
            others = {key: value for key, value in self._status.unsealed.items() if key != name}
            update = others if why is None else {**others, name: why}
            self._status = self._status.model_copy(update={"unsealed": update})

    def write(self, *, at_once: bool = False) -> None:
        """Replace the file if a second has passed; a full disk stops nobody."""
        if not at_once and time.monotonic() - self._written < _EVERY:
            return
        self._written = time.monotonic()
        self.note(told_at=self._clock())
        unfinished = self._path.with_name(f".{self._path.name}")
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(self.status.model_dump_json(indent=1) + "\n")
            unfinished.replace(self._path)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror)

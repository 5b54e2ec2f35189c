"""What a WAL receiver leaves for others to see: its folder, its lock, what it said last."""

from __future__ import annotations

import contextlib
import fcntl
import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pgbackup.domain.settings import Settings

_STATUS = "status.json"


class ReceiverStatus(BaseModel):
    """What a receiver says of itself, about once a second (``told_at``).

    ``received_lsn`` is what the server knows to be on its disk. ``backlog`` counts finished files that are not sealed,
    ``unsealed`` says why some cannot be: an entry stays until its file is. ``gap`` is the WAL that it could not get.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    started_at: datetime
    told_at: datetime
    receiving: bool = False
    system_identifier: str | None = None
    received_lsn: str | None = None
    received_at: datetime | None = None
    sealed_name: str | None = None
    sealed_at: datetime | None = None
    backlog: int = 0
    heartbeat_at: datetime | None = None
    gap: str | None = None
    error: str | None = None
    unsealed: dict[str, str] = {}


def receiver_folder(settings: Settings, cluster: str) -> Path:
    """Return a cluster's folder; in it one folder for each system identifier holds the WAL."""
    return settings.paths.received_folder / cluster


def receiver_is_alive(settings: Settings, cluster: str) -> bool:
    """Tell whether a receiver of this cluster runs on this machine: it holds its folder's lock while it lives."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(receiver_folder(settings, cluster), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


def receiver_status(settings: Settings, cluster: str) -> ReceiverStatus | None:
    """Return what the receiver said last; None when it never said anything that can be read."""
    with contextlib.suppress(OSError, ValidationError):
        return ReceiverStatus.model_validate_json(status_file(settings, cluster).read_bytes())
    return None


def status_file(settings: Settings, cluster: str) -> Path:
    """Return the status file's path."""
    return receiver_folder(settings, cluster) / _STATUS

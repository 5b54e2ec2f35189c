"""Take backups: full ones (logical dumps of every database and the globals)."""

from pgbackup.capture.full import capture_full
from pgbackup.capture.preflight import preflight

__all__ = ["capture_full", "preflight"]

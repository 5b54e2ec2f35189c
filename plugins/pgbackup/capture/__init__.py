"""Take backups: full ones (logical dumps of every database and the globals) and physical base backups."""

from pgbackup.capture.full import capture_full
from pgbackup.capture.night import capture_night
from pgbackup.capture.preflight import preflight
from pgbackup.capture.session import refuse

__all__ = ["capture_full", "capture_night", "preflight", "refuse"]

"""Take backups: full ones (logical dumps of every database and the globals), physical base backups, incrementals."""

from pgbackup.capture.full import capture_full
from pgbackup.capture.incremental import capture_base, capture_incremental
from pgbackup.capture.night import capture_night
from pgbackup.capture.preflight import preflight
from pgbackup.capture.session import refuse

__all__ = ["capture_base", "capture_full", "capture_incremental", "capture_night", "preflight", "refuse"]

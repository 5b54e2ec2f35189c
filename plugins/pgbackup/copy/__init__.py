"""Bring backups and WAL from the local repository to the others; each repository for itself."""

from pgbackup.copy.backups import Copied, copy_backup, copy_missing, missing_copies
from pgbackup.copy.check import check_repository
from pgbackup.copy.wal import copy_wal

__all__ = ["Copied", "check_repository", "copy_backup", "copy_missing", "copy_wal", "missing_copies"]

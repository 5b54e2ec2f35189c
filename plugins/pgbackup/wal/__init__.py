"""Receive WAL second by second, and seal each finished segment in the archive."""

from pgbackup.wal.receive import receive
from pgbackup.wal.seal import seal_file
from pgbackup.wal.slot import create_slot
from pgbackup.wal.status import wal_status

__all__ = ["create_slot", "receive", "seal_file", "wal_status"]

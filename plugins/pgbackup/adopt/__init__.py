"""Make backups of dumps that were not taken by us; their files are read, never changed."""

from pgbackup.adopt.files import find_dumps
from pgbackup.adopt.run import Adopted, adopt

__all__ = ["Adopted", "adopt", "find_dumps"]

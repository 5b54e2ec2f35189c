"""``backup_log`` and its friends: a cache of what the repositories hold, in a database of its own."""

from pgbackup.catalog.postgres import PostgresCatalog

__all__ = ["PostgresCatalog"]

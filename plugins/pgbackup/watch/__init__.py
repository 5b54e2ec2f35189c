"""Watch what recovery depends on: the archive's continuity, who fills it, how much would be lost now."""

from pgbackup.watch.run import watch

__all__ = ["watch"]

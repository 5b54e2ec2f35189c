"""Watch what recovery depends on: the archive's continuity, who fills it, how much would be lost now."""

from pgbackup.watch.looked import last_look
from pgbackup.watch.names import meaning
from pgbackup.watch.run import Watching, examine, watch

__all__ = ["Watching", "examine", "last_look", "meaning", "watch"]

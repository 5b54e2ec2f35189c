"""Recovery drills: recover into isolation, measure how long it takes and how much would be lost, and remove it."""

from pgbackup.drill.run import drill

__all__ = ["drill"]

"""Rotation: what each repository keeps, by which rule, and the deletion of the rest."""

from pgbackup.restore.holds import list_holds, put_hold, release_hold
from pgbackup.rotate.apply import Applied, apply
from pgbackup.rotate.planning import RotationPlan, plan

__all__ = ["Applied", "RotationPlan", "apply", "list_holds", "plan", "put_hold", "release_hold"]

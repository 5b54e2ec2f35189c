"""Rotation: what each repository keeps, by which rule, and the deletion of the rest."""

from pgbackup.restore.holds import holds_of, put_hold, release_hold
from pgbackup.rotate.apply import Applied, apply
from pgbackup.rotate.planning import RotationPlan, plan

__all__ = ["Applied", "RotationPlan", "apply", "holds_of", "plan", "put_hold", "release_hold"]

"""Recovery: plan it, and carry it out beside what is there."""

from pgbackup.recover.cluster import Recovered, recover_cluster
from pgbackup.recover.planning import plan

__all__ = ["Recovered", "plan", "recover_cluster"]

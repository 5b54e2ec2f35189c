"""Look after the storage: is it private, encrypted, whole, where it should be, and nothing else."""

from pgbackup.audit.keep import keep
from pgbackup.audit.run import MACHINE, audit, audit_one
from pgbackup.audit.text import audit_text

__all__ = ["MACHINE", "audit", "audit_one", "audit_text", "keep"]

"""Where bytes rest. Every store fulfils one contract (domain.ports.Store), and one test holds them all to it."""

from pgbackup.store.local import LocalStore

__all__ = ["LocalStore"]

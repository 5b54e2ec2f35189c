"""Where bytes rest. Every store fulfils one contract (domain.ports.Store), and one test holds them all to it."""

from pgbackup.store.local import LocalStore
from pgbackup.store.s3 import S3Store, client_config, profile_client

__all__ = ["LocalStore", "S3Store", "client_config", "profile_client"]

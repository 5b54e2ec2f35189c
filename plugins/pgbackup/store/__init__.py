"""Where bytes rest. Every store fulfils one contract (domain.ports.Store), and one test holds them all to it."""

from pgbackup.store.fsspec import FsspecStore, filesystem
from pgbackup.store.local import LocalStore
from pgbackup.store.s3 import S3Store, client_config, profile_client

__all__ = ["FsspecStore", "LocalStore", "S3Store", "client_config", "filesystem", "profile_client"]

"""The only package that starts programs: pipelines that measure, encrypt, redact, and check every exit status."""

from pgbackup.stream.gpg import GpgKeyring, PlainKeyring
from pgbackup.stream.process import Processes
from pgbackup.stream.secret_files import check_secret

__all__ = ["GpgKeyring", "PlainKeyring", "Processes", "check_secret"]

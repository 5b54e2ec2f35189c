"""Prove backups: restore them in isolation and compare them with what their source was."""

from pgbackup.verify.attempt import Attempt, attempt_of, discard, give_up, open_attempt
from pgbackup.verify.run import verify
from pgbackup.verify.steps import check_contents, check_files, check_restore, conclude, pending

__all__ = [
    "Attempt",
    "attempt_of",
    "check_contents",
    "check_files",
    "check_restore",
    "conclude",
    "discard",
    "give_up",
    "open_attempt",
    "pending",
    "verify",
]

"""Backups of `library`, made without Airflow."""

from __future__ import annotations

from pgbackup.capture import capture_full
from pgbackup.domain.model import Verdict
from pgbackup.verify import verify
from tests.airflow_e2e.stack import Stack


def take(stack: Stack) -> str:
    """Take a backup: nothing verifies it. Returns its id."""
    return capture_full(stack.site(), "library").id


def damage(stack: Stack, backup_id: str) -> str:
    """Flip one bit in the middle of a stored dump; return the file's name."""
    (dump,) = (stack.backups / "full" / backup_id).glob("library.dump*")
    dump.chmod(0o600)
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    return dump.name


def proved(stack: Stack, backup_id: str) -> Verdict | None:
    """Let the restore test judge it."""
    return verify(stack.site(), backup_id, "local").verdict

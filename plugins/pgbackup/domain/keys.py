"""The keys that protocol.yaml names, and what each is for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class Role(StrEnum):
    """What a key file is configured for."""

    RECIPIENT = "recipient"
    ESCROW = "escrow"
    PRIVATE = "private key"
    SIGNING = "signing key"
    VERIFY = "verify key"


@dataclass(frozen=True)
class Key:
    """One configured key file; ``expires`` is None for never. An escrow key is a recipient."""

    role: Role
    path: Path
    fingerprint: str
    expires: datetime | None

"""Holds: nobody may delete a backup while one stands. Small write-once objects beside it; so is what releases one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pgbackup.domain.errors import RefusedError

HOLDS = "attest/hold-"
RELEASES = "attest/release-"


class Hold(BaseModel):
    """Who keeps a backup, why, and until when (None: until it is released).

    ``with_wal`` keeps the archived WAL behind a physical backup as well: a recovery needs it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    backup_id: str
    owner: str
    reason: str
    held_at: AwareDatetime
    expires_at: AwareDatetime | None
    with_wal: bool = False

    @property
    def text(self) -> bytes:
        """Serialize for the repository."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    @property
    def id(self) -> str:
        """The hold's name: a digest of it."""
        return sha256(self.text).hexdigest()[:16]

    def stands(self, now: datetime) -> bool:
        """Tell whether it has not expired."""
        return self.expires_at is None or now < self.expires_at

    def __str__(self) -> str:
        until = f"until {self.expires_at:%Y-%m-%d %H:%M} UTC" if self.expires_at else "until it is released"
        return f"held by {self.owner} {until}: {self.reason}"


class Release(BaseModel):
    """Who released a hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    hold_id: str
    owner: str
    released_at: AwareDatetime

    @property
    def text(self) -> bytes:
        """Serialize for the repository."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def standing(objects: Iterable[Mapping[str, bytes]], now: datetime) -> tuple[Hold, ...]:
    """Return the holds that stand, of one backup's objects (name -> text) in each repository, oldest first.

    One that cannot be read stands: raises RefusedError. A release that cannot be read releases nothing.
    """
    merged = {name: text for one in objects for name, text in one.items()}
    holds = [_unseal(name, text) for name, text in sorted(merged.items()) if name.startswith(HOLDS)]
    released = {_released(text) for name, text in merged.items() if name.startswith(RELEASES)}
    return tuple(
        sorted((one for one in holds if one.id not in released and one.stands(now)), key=lambda one: one.held_at)
    )


def _released(text: bytes) -> str | None:
    try:
        return Release.model_validate_json(text).hold_id
    except ValidationError:
        return None


def _unseal(name: str, text: bytes) -> Hold:
    try:
        hold = Hold.model_validate_json(text)
    except ValidationError:
        raise RefusedError(f"{name} is not a hold that this version reads") from None
    if hold.id not in name:
        raise RefusedError(f"{name} is damaged", hint="find out who holds the backup; until then it stays")
    return hold

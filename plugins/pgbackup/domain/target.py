"""Recovery targets: where replay ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.lsn import Lsn


@dataclass(frozen=True)
class Latest:
    """All the WAL there is."""

    kind: Literal["latest"] = "latest"
    meaning = "all the WAL that there is"

    def __str__(self) -> str:
        return "the latest"


@dataclass(frozen=True)
class AtTime:
    """A moment with a time zone."""

    moment: datetime
    kind: Literal["time"] = "time"
    meaning = "every commit before the first one that is stamped later (stamps need not be in order)"

    def __str__(self) -> str:
        return self.moment.isoformat(" ").replace("+00:00", "Z")


@dataclass(frozen=True)
class AtLsn:
    """A position in the WAL."""

    lsn: Lsn
    kind: Literal["lsn"] = "lsn"
    meaning = "every record that begins before it"

    def __str__(self) -> str:
        return str(self.lsn)


@dataclass(frozen=True)
class AtXid:
    """A transaction's id, with or without its epoch."""

    xid: int
    kind: Literal["xid"] = "xid"
    meaning = "everything up to this transaction's end, and itself"

    def __str__(self) -> str:
        return f"transaction {self.xid}"


@dataclass(frozen=True)
class AtName:
    """A named restore point (pg_create_restore_point)."""

    name: str
    kind: Literal["name"] = "name"
    meaning = "every record before the newest restore point of this name"

    def __str__(self) -> str:
        return f"restore point {self.name!r}"


Target = Latest | AtTime | AtLsn | AtXid | AtName


def parse_target(
    to: str | None = None, *, lsn: str | None = None, xid: int | None = None, name: str | None = None
) -> Target:
    """Read a target: exactly one of ``latest`` or a moment with its time zone, a position, a transaction, a name."""
    if sum(value is not None for value in (to, lsn, xid, name)) != 1:
        raise ConfigurationError("name one target", hint="--to latest, --to TIME, --lsn, --xid or --name")
    if lsn is not None:
        return AtLsn(Lsn.parse(lsn))
    if xid is not None:
        return AtXid(xid)
    if name is not None:
        return AtName(name)
    return Latest() if to == "latest" else AtTime(parse_moment(to or ""))


def parse_moment(text: str) -> datetime:
    """Read an ISO moment; raises ConfigurationError for one without a time zone."""
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC") + "Z" if text.endswith(" UTC") else text)
    except ValueError:
        raise ConfigurationError("not a moment", detail=repr(text[:80]), hint="such as 2026-01-31T02:00:00Z") from None
    if moment.tzinfo is None:
        raise ConfigurationError(
            "a moment without a time zone is ambiguous",
            detail=text,
            hint=f"{text}Z is UTC; {text}+02:00 is another zone",
        )
    return moment

"""A switch under way: its plan in a file beside the data directory, and the two renames it is made of.

Where the folders are says how far it got, the file says which folders they are: whoever finds it, after a kill at any
point, goes on with the same plan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pgbackup.domain.errors import RefusedError
from pgbackup.recover.workplace import sync_folder, write_whole


@dataclass(frozen=True)
class SwitchPlan:
    """What a switch will do: ``data`` becomes ``before``, ``folder`` becomes ``data``.

    ``before`` is None when nothing is at ``data``. ``sessions`` will be ended, none when the server is not ``alive``;
    ``bytes`` is what the old directory goes on taking. ``collations`` need a REINDEX. ``begun`` says that an earlier
    run was interrupted, and that this is its plan.
    """

    cluster: str
    folder: Path
    data: Path
    before: Path | None
    system_identifier: str
    timeline: int
    major: int
    alive: bool
    sessions: int
    bytes: int
    collations: tuple[str, ...]
    notes: tuple[str, ...]
    begun: bool = False


@dataclass(frozen=True)
class Switching:
    """A plan that is carried out: since when nobody can write, and since when nobody can connect."""

    plan: SwitchPlan
    unwritten: datetime
    unreachable: datetime


_switchings = TypeAdapter(Switching)


def journal(data: Path) -> Path:
    """Return where the switch of a data directory is kept while it is under way."""
    return data.with_name(f"{data.name}.switch")


def read_switching(data: Path) -> Switching | None:
    """Return the switch that an interrupted run left; raises RefusedError when another version wrote it."""
    try:
        return _switchings.validate_json(journal(data).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise RefusedError(
            f"{journal(data)} is not one that this version reads", hint="finish that switch with the other version"
        ) from None


def keep(switching: Switching) -> None:
    """Keep it, durably."""
    path = journal(switching.plan.data)
    write_whole(path, _switchings.dump_json(switching, indent=1))
    sync_folder(path.parent)


def forget(plan: SwitchPlan) -> None:
    """Nothing is under way any more."""
    journal(plan.data).unlink(missing_ok=True)
    sync_folder(plan.data.parent)


def is_set_aside(plan: SwitchPlan) -> bool:
    """Tell whether the old directory has its new name, and the recovered one not yet.

    Raises RefusedError when meanwhile somebody put something in the old one's place.
    """
    if plan.before is None or not plan.before.exists():
        return False
    if plan.data.exists():
        raise RefusedError(
            f"{plan.data} was renamed to {plan.before}, and something is in its place again",
            hint=f"look at it, move it away, and repeat the command: {plan.folder} goes there",
        )
    return True


def set_aside(plan: SwitchPlan) -> None:
    """Give the old directory its new name."""
    if plan.before is not None:
        _rename(plan.data, plan.before)


def put_back(plan: SwitchPlan) -> None:
    """Take that back."""
    if plan.before is not None and plan.before.exists() and not plan.data.exists():
        _rename(plan.before, plan.data)


def put_in_place(plan: SwitchPlan) -> None:
    """Give the recovered directory the name of the old one."""
    _rename(plan.folder, plan.data)


def _rename(old: Path, new: Path) -> None:
    """Rename a folder, never into or over something; raises RefusedError when that is not possible."""
    try:
        old.rename(new)
    except OSError as error:
        raise RefusedError(
            f"{old} cannot be renamed to {new}", detail=os.strerror(error.errno or 0), hint="is it a mount point?"
        ) from None
    for folder in {old.parent, new.parent}:
        sync_folder(folder)

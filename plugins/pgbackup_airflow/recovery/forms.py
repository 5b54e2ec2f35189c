"""What the forms of several recoveries have in common."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.settings import LOCAL, Settings
from pgbackup.domain.target import Target, parse_target
from pgbackup.recover import BEST

_BACKUP = r"^[a-z][a-z0-9_-]{0,30}_\d{8}_\d{6}_full$"
_NAME = r"^[^\x00-\x1f\x7f]{1,63}$"


def name_param(title: str, description: str, section: str) -> Param:
    """Ask for the name of a database; it may be left empty."""
    return Param(None, type=["null", "string"], pattern=_NAME, title=title, description=description, section=section)


def backup_param(section: str) -> Param:
    """Ask for a full backup; it may be left empty."""
    return Param(
        None,
        type=["null", "string"],
        pattern=_BACKUP,
        title="Backup",
        description="A full backup, such as streamflix_20260131_020000_full. Empty: you choose one of those that there"
        " are, in the run.",
        section=section,
    )


def moment_param(section: str) -> Param:
    """Ask for a moment instead of a backup; it may be left empty."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Moment",
        description="Instead of a backup: everything that was committed up to this moment comes back, from a side"
        " server that is recovered first. With its time zone: 2026-01-31T14:03:19Z is UTC.",
        section=section,
    )


def read_moment(text: str | None) -> Target | None:
    """Read a form's moment."""
    return parse_target(text) if text else None


def repository_param(settings: Settings, section: str) -> Param:
    """Ask whose copies to use."""
    return Param(
        BEST,
        enum=[BEST, LOCAL, *settings.repositories],
        values_display={BEST: "whichever can: local, else the one that reaches farthest, then the quickest"},
        type="string",
        title="Repository",
        description="Whose copies to use. With a name, that one alone is read.",
        section=section,
    )


def read_repository(name: str) -> str | None:
    """Read a form's repository; None is whichever is best."""
    return None if name == BEST else name


def rejected_param(section: str) -> Param:
    """Ask for the override of a verdict, by name."""
    return Param(
        None,
        type=["null", "string"],
        pattern=_BACKUP,
        title="Even rejected",
        description="Only to use a backup whose restore test failed: its id, once more.",
        section=section,
    )


def overridden(typed: Any, backup_id: str | None) -> bool:
    """Tell whether a rejected backup may be used; raises ConfigurationError when another one was typed."""
    if typed and typed != backup_id:
        raise ConfigurationError(
            "what is to be used even if rejected is not the chosen backup",
            detail=f"{typed} and {backup_id}",
            hint="name the same backup twice, or leave `even rejected` empty",
        )
    return bool(typed)

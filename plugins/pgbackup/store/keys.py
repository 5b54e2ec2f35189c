"""What a key may be, the same in every kind of repository."""

from __future__ import annotations

from pgbackup.domain.errors import ConfigurationError


def checked_parts(key: str) -> list[str]:
    """Split a key; raises ConfigurationError for one that could lead out of the repository, or name no object."""
    parts = key.rstrip("/").split("/")
    if any(not part or part.startswith(".") or "\0" in part for part in parts):
        raise ConfigurationError("not a key of a repository", detail=repr(key[:200]))
    return parts

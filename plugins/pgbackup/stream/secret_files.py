"""Files that hold a secret: read by their owner alone, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pgbackup.domain.errors import UnfitError

_OPEN = stat.S_IRWXO | stat.S_IWGRP


def check_secret(path: Path, setting: str) -> None:
    """Raise UnfitError when a secret file is missing, or every account of the machine may read or change it.

    A group may read it: that is how container platforms hand secrets to an account that is not root.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise UnfitError("a secret file is missing", detail=str(path), hint=f"see {setting}") from None
    except OSError as error:
        raise UnfitError(
            "a secret file cannot be read", detail=f"{path}: {error.strerror}", hint=f"see {setting}"
        ) from None
    if mode & _OPEN:
        raise UnfitError(
            "a secret file is open to others",
            detail=f"{path} has mode {stat.S_IMODE(mode):04o}",
            hint=f"chmod 600 {path}, then ask who may have read it; see {setting}",
        )

"""PostgreSQL's client programs: where they are, which version they have, what to call them with."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, UnfitError
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Runner

_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL's programs."""

    folder: Path

    def command(self, program: str, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Build a call of one of the programs."""
        return Command((str(self.folder / program), *arguments), env or {})

    def major(self, runner: Runner, program: str = "pg_dump") -> int:
        """Return the major version of a program; raises UnfitError when it does not run."""
        return int(self.version(runner, program).split(".")[0])

    def version(self, runner: Runner, program: str = "pg_dump") -> str:
        """Return a program's version, such as ``18.6``."""
        try:
            output, _ = runner.run(self.command(program, "--version"))
        except ProgramFailed as error:
            raise UnfitError(
                f"{program} does not run",
                detail=error.detail,
                hint="install what it misses: apt-get install libxml2 libgssapi-krb5-2 libreadline8 libssl3",
            ) from None
        match = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", output.decode(errors="replace"))
        if match is None:
            raise UnfitError(f"cannot tell the version of {program}", detail=output.decode(errors="replace")[:200])
        return match[1]


def find_programs(configured: Path | None, *, major: int) -> Programs:
    """Return the programs for a server's major version: configured, else Debian's, else PATH's.

    A server's own major comes first: what newer programs write, an older server does not always take back.
    """
    if configured is not None:
        folder = Path(str(configured).replace("{major}", str(major)))
        if not (folder / "pg_dump").exists():
            raise UnfitError(
                "no PostgreSQL programs in the configured folder",
                detail=str(folder),
                hint="see paths.postgres_bin",
            )
        return Programs(folder)
    folders = sorted(_DEBIAN.glob("[0-9]*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    folders.sort(key=lambda folder: folder.parent.name != str(major))  # stable: own major, then newest
    for folder in folders:
        if (folder / "pg_dump").exists():
            return Programs(folder)
    found = shutil.which("pg_dump", path=os.environ.get("PATH"))
    if found is not None:
        return Programs(Path(found).resolve().parent)
    raise UnfitError(
        "PostgreSQL's client programs are not installed",
        hint=f"apt-get install postgresql-client-{major}, or set paths.postgres_bin",
    )

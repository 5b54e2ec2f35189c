"""Read one old dump to its end: what its header says, what its definitions name, which roles belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgbackup.adopt.files import OldFile, opened
from pgbackup.domain.errors import ProgramFailed, RefusedError
from pgbackup.domain.findings import some
from pgbackup.domain.ports import Site
from pgbackup.postgres import dump
from pgbackup.postgres.dump_file import Globals, Header, Named, globals_of, read_globals, read_named
from pgbackup.postgres.programs import find_programs


@dataclass(frozen=True)
class Dump:
    """A dump that decodes to its end; ``sql_bytes`` are those of its SQL, about what its database took."""

    old: OldFile
    header: Header
    named: Named
    globals: Globals
    sql_bytes: int


def read_dump(site: Site, old: OldFile, header: Header, globals_file: Path | None) -> Dump:
    """Read a dump, and the globals that go with it.

    Raises RefusedError for one that is damaged or holds no rows, and for globals that do not make the roles that it
    names; UnfitError without programs that can read it.
    """
    # Newer programs than the server's write what older ones do not know.
    major = max(header.version // 10000, int(header.client_version.split(".")[0]))
    programs = find_programs(site.settings.paths.postgres_bin, major=major)
    try:
        named = read_named(site.runner, programs, old.plain, header.database)
        decoded = site.runner.pipe(dump.decoded_archive(programs, old.plain), sink=_Nowhere())
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise RefusedError(
            f"{old.path.name} is damaged or cut short", detail=error.detail, hint="adopt another dump of these days"
        ) from None
    plain = sum(table.kind == "r" for table in named.database.tables)
    if plain and len(named.without_rows) == plain:
        raise RefusedError(f"{old.path.name} holds no rows", hint="it was made with --schema-only: no backup")
    found = _globals(site, globals_file, old, named) if globals_file else globals_of(named)
    return Dump(old, header, named, found, decoded.sink.bytes)


def _globals(site: Site, path: Path, old: OldFile, named: Named) -> Globals:
    with opened(site, path) as file:
        found = read_globals(file.plain.read_bytes())
    missing = named.roles - found.roles
    if missing:
        raise RefusedError(
            f"{path.name} does not belong to {old.path.name}",
            detail=f"the dump names roles that it does not make: {some(sorted(missing))}",
            hint="name the globals of the same server and of the same days, or none",
        )
    return found


class _Nowhere:
    """A sink that forgets."""

    def write(self, data: bytes | memoryview) -> None:
        del data

"""pg_dump, pg_dumpall, pg_restore and friends: what they are called with. Streams and files are the caller's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pgbackup.domain.model import Command
from pgbackup.postgres.connection import ProgramAccess
from pgbackup.postgres.programs import Programs

_TABLESPACE = re.compile(
    r"(CREATE|ALTER|DROP)\s+TABLESPACE\b|COMMENT\s+ON\s+TABLESPACE\b|(GRANT|REVOKE)\b.*\bON\s+TABLESPACE\b",
    re.DOTALL,
)
_CREATE_TABLESPACE = re.compile(r"""CREATE\s+TABLESPACE\s+("(?:[^"]|"")*"|\w+)""")
# Literals (with backslash escapes only behind an E), names, comments, psql's own commands, the rest.
_TOKEN = re.compile(
    r"""(?<=\sE)'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|^\\(?:un)?restrict[^\n]*|;|[^'";\\-]+|[\\-]""",
    re.DOTALL | re.MULTILINE,
)
# What a restored database's own settings (ALTER DATABASE SET) and event triggers would forbid.
_WRITABLE = "-c default_transaction_read_only=off"
_UNDISTURBED = "-c session_replication_role=replica -c statement_timeout=0 -c lock_timeout=0"


def dump_globals(programs: Programs, access: ProgramAccess, database: str) -> Command:
    """Roles, memberships, tablespaces, settings of roles; to standard output."""
    return programs.command(
        "pg_dumpall",
        "--globals-only",
        "--no-password",
        f"--dbname={access.conninfo(database)}",
        env=access.env,
    )


def dump_database(
    programs: Programs,
    access: ProgramAccess,
    database: str,
    *,
    snapshot_id: str,
    compression: str,
    jobs: int = 1,
    folder: Path | None = None,
) -> Command:
    """Dump one database at a snapshot: custom format to standard output, or directory format into ``folder``."""
    target = ["--format=custom"] if folder is None else ["--format=directory", f"--file={folder}", f"--jobs={jobs}"]
    return programs.command(
        "pg_dump",
        *target,
        f"--compress={compression}",
        f"--snapshot={snapshot_id}",
        "--no-password",
        "--lock-wait-timeout=30000",
        f"--dbname={access.conninfo(database)}",
        env=access.env,
    )


def dump_at_rest(
    programs: Programs,
    access: ProgramAccess,
    database: str,
    file: Path,
    *,
    compression: str,
    without_rows_of: Iterable[str],
    large_objects: bool,
) -> Command:
    """Dump one database of a server that nobody writes to, custom format, into ``file``.

    Of tables that match one of the patterns only the definition is in it.
    """
    return programs.command(
        "pg_dump",
        "--format=custom",
        f"--file={file}",
        f"--compress={compression}",
        *(f"--exclude-table-data={pattern}" for pattern in without_rows_of),
        "--blobs" if large_objects else "--no-blobs",
        "--no-password",
        "--lock-wait-timeout=30000",
        f"--dbname={access.conninfo(database)}",
        env=access.env,
    )


def compression_for(method: str, pg_dump: str) -> str:
    """Return ``full_backup.compression`` as a pg_dump of this version takes it.

    Before 16 it has only gzip, given by its level: the other methods, chosen for their speed, become its fastest.
    """
    if int(pg_dump.split(".", maxsplit=1)[0]) >= 16:
        return method
    name, _, level = method.partition(":")
    return {"none": "0", "gzip": level or "6"}.get(name, "1")


def pack(folder: Path) -> Command:
    """Tar a directory-format dump to standard output."""
    return Command(("tar", "--create", "--file=-", "--directory", str(folder), "."))


def unpack(folder: Path) -> Command:
    """Untar a directory-format dump from standard input."""
    return Command(("tar", "--extract", "--file=-", "--directory", str(folder)))


def list_archive(programs: Programs, archive: Path) -> Command:
    """Print a dump's table of contents. It stands at the front: this alone says little about the rest."""
    return programs.command("pg_restore", "--list", str(archive))


def decode_archive(programs: Programs, archive: Path) -> Command:
    """Decode a dump to its end, to nowhere."""
    return programs.command("pg_restore", "--file=/dev/null", str(archive))


def decoded_archive(programs: Programs, archive: Path) -> Command:
    """Decode a dump to its end, to standard output."""
    return programs.command("pg_restore", "--file=-", str(archive))


def restore_database(programs: Programs, access: ProgramAccess, archive: Path, *, jobs: int) -> Command:
    """Create a database from its dump, with owner, locale, settings and grants, in parallel.

    Tablespaces and subscriptions stay out: an isolated server must touch nobody else's files or servers.
    """
    return programs.command(
        "pg_restore",
        "--create",
        f"--jobs={jobs}",
        "--no-tablespaces",
        "--no-subscriptions",
        "--no-password",
        f"--dbname={access.conninfo('template1')}",
        str(archive),
        env={**access.env, "PGOPTIONS": _WRITABLE},
    )


def restore_definitions(programs: Programs, access: ProgramAccess, archive: Path) -> Command:
    """Create a database from its dump, without rows, indexes and constraints; see restore_database."""
    command = restore_database(programs, access, archive, jobs=1)
    return dataclasses.replace(command, argv=(command.argv[0], "--section=pre-data", *command.argv[1:]))


def restore_chosen(
    programs: Programs, access: ProgramAccess, chosen: Path, archive: Path, database: str, *, jobs: int
) -> Command:
    """Restore the entries that a list names into a database that has their definitions."""
    command = fill_database(programs, access, archive, database, jobs=jobs)
    return dataclasses.replace(command, argv=(command.argv[0], f"--use-list={chosen}", *command.argv[1:]))


def fill_database(programs: Programs, access: ProgramAccess, archive: Path, database: str, *, jobs: int) -> Command:
    """Restore a dump into a new, empty database of any name, in parallel; without subscriptions."""
    return programs.command(
        "pg_restore",
        f"--jobs={jobs}",
        "--no-subscriptions",
        "--no-password",
        f"--dbname={access.conninfo(database)}",
        str(archive),
        env={**access.env, "PGOPTIONS": _WRITABLE},
    )


def check_indexes(programs: Programs, access: ProgramAccess, *, jobs: int) -> Command:
    """Check every table and index of every database, each index against its table's rows."""
    return programs.command(
        "pg_amcheck",
        "--all",
        "--heapallindexed",
        "--install-missing",
        f"--jobs={jobs}",
        "--no-password",
        f"--maintenance-db={access.conninfo('template1')}",
        env={**access.env, "PGOPTIONS": f"{_WRITABLE} {_UNDISTURBED}"},
    )


def same_globals(first: bytes, second: bytes) -> bool:
    """Compare two dumps of the globals, without their comments and the random key of newer versions."""
    return _bare(first) == _bare(second)


def _bare(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if not line.startswith((b"--", b"\\restrict", b"\\unrestrict"))]


def globals_for_isolation(text: str, bootstrap: str) -> str:
    """Take out of the globals what an isolated server must not run: tablespaces (they have absolute paths), and the
    creation of the superuser that it already has.
    """
    quoted = '"' + bootstrap.replace('"', '""') + '"'
    creations = {f"CREATE ROLE {bootstrap};", f"CREATE ROLE {quoted};"}
    kept = [
        statement for statement in statements(text) if not _TABLESPACE.match(statement) and statement not in creations
    ]
    return "\n".join(kept) + "\n"


def tablespaces_in_place(text: str) -> Iterator[str]:
    """Make the tablespaces of the globals again inside the data directory, for what names them: a database's default,
    ALTER DATABASE SET.

    >>> list(tablespaces_in_place("CREATE TABLESPACE fast OWNER postgres LOCATION '/ssd';"))
    ["CREATE TABLESPACE fast LOCATION ''"]
    """
    for statement in statements(text):
        match = _CREATE_TABLESPACE.match(statement)
        if match:
            yield f"CREATE TABLESPACE {match[1]} LOCATION ''"


def statements(text: str) -> Iterator[str]:
    """Split plain SQL (no dollar quotes: globals have none) into statements; psql's own commands are left out.

    >>> list(statements('CREATE ROLE "a;b"; -- c\\nSELECT 1;'))
    ['CREATE ROLE "a;b";', 'SELECT 1;']
    """
    current: list[str] = []
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece.startswith(("--", "\\restrict", "\\unrestrict")):
            continue
        current.append(piece)
        if piece == ";":
            yield "".join(current).strip()
            current = []
    rest = "".join(current).strip()
    if rest:
        yield rest

"""``pgbackup adopt``: dumps of the old script become backups of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pgbackup.adopt import Adopted, adopt, find_dumps
from pgbackup.cli.face import Cluster, Config, Json, running
from pgbackup.cli.output import out, print_error, print_findings, print_json, verdict_line, verification_document
from pgbackup.domain.errors import ConfigurationError, PermanentError, RefusedError
from pgbackup.domain.model import Verdict, Verification
from pgbackup.domain.target import parse_moment
from pgbackup.verify import verify


def adopt_dumps(
    places: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER...", help="*.dump, *.dump.gpg")],
    database: Annotated[
        str | None, typer.Option("--database", help="Refuse dumps of another.", show_default=False)
    ] = None,
    taken_at: Annotated[
        str | None,
        typer.Option(
            "--taken-at", help="When one dump was taken; default: its header's clock, as UTC.", show_default=False
        ),
    ] = None,
    globals_file: Annotated[
        Path | None, typer.Option("--globals", help="Their pg_dumpall --globals-only.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--verify", help="Restore each one at once.")] = False,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Make backups of old dumps, whose files stay as they are; one that is refused keeps no other from it."""
    with running("adopt", config, cluster, json=json) as (site, name):
        moment = parse_moment(taken_at) if taken_at else None
        paths = find_dumps(places)
        if moment is not None and len(paths) > 1:
            raise ConfigurationError("--taken-at is about one dump", detail=f"{len(paths)} are named")
        done: list[tuple[Adopted, Verification | None]] = []
        errors: list[PermanentError] = []
        for path in paths:
            try:
                one = adopt(site, name, path, database=database, taken_at=moment, globals_file=globals_file)
                done.append((one, verify(site, one.manifest.id, site.local.name) if check else None))
            except PermanentError as error:
                print_error(error, as_json=json)
                errors.append(error)
    _print(done, json=json)
    if errors:
        raise typer.Exit(max(error.exit_code for error in errors))
    if any(found and found.verdict is not Verdict.VERIFIED for _, found in done):
        raise typer.Exit(RefusedError.exit_code)


def _print(done: Sequence[tuple[Adopted, Verification | None]], *, json: bool) -> None:
    if json:
        print_json([_document(one, found) for one, found in done])
        return
    for one, found in done:
        known = " already" if one.known else ""
        out.print(f"{one.path} is {one.manifest.id}{known}: {one.manifest.stored_bytes / 1e6:.1f} MB", markup=False)
        if found:
            print_findings(found.findings)
            out.print(verdict_line(found), markup=False)


def _document(one: Adopted, found: Verification | None) -> dict[str, object]:
    return {
        "file": str(one.path),
        "id": one.manifest.id,
        "known": one.known,
        "backup_time": one.manifest.backup_time.isoformat(),
        "databases": [database.name for database in one.manifest.databases],
        "bytes": one.manifest.stored_bytes,
        "not_included": list(one.manifest.not_included),
        **({"verification": verification_document(found)} if found else {}),
    }

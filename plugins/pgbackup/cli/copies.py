"""``pgbackup copies`` shows what is where; ``pgbackup copy`` brings what is missing, to all repositories at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pgbackup.cli.face import Cluster, Config, Json, failures, only, open_site, running
from pgbackup.cli.output import out, print_error, print_json
from pgbackup.copy import copy_backup, copy_missing, copy_wal, missing_copies
from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import Backup, CopyState, State, WalCopy
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import LOCAL
from pgbackup.watch.text import span

_HELD = frozenset({State.CAPTURED, State.VERIFIED, State.REJECTED})
_NONE = "-"
_ALARMING = {_NONE: "bold red", CopyState.DAMAGED: "bold red"}


def show_copies(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Show the state of each backup in each repository, and how far each is with the WAL."""
    with failures(json=json):
        site = open_site(config)
        name = only(site, cluster)
        backups = site.catalog.backups(name, states=_HELD)
        reached = {one.repository: one for one in site.catalog.wal_copies(name)}
        others = _others(site)
        lags = {one: site.clock() - found.whole_at for one, found in reached.items() if found.whole_at}
        behind = {one: len(missing_copies(site, name, one)) for one in others}
    if json:
        wal = {one: _wal_document(reached.get(one), lags.get(one)) for one in others}
        print_json({"backups": [_document(backup, site) for backup in backups], "wal": wal})
        return
    table = Table("backup", *site.repositories, box=None, pad_edge=False)
    for backup in backups:
        states = list(_document(backup, site).values())
        table.add_row(states[0], *(Text(one, style=_ALARMING.get(one, "")) for one in states[1:]))
    table.add_row("WAL", "", *(_wal_text(reached.get(one), lags.get(one)) for one in others))
    out.print(table)
    for one in others:
        _print_behind(one, behind[one], reached.get(one))


def copy_all(
    backup_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One backup; default: all.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="One repository; default: all.", show_default=False)] = None,
    source: Annotated[str, typer.Option("--from", help="Which copy of ID to read.")] = LOCAL,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Copy every backup and all WAL that a repository lacks; one that is down delays no other.

    With an ID only that backup, also back: `pgbackup copy ID --from REGION --to local`; verify it then.
    """
    with failures(json=json):
        cluster = BackupId.parse(backup_id).cluster if backup_id else cluster
    with running("copy", config, cluster, json=json) as (site, name):
        others = _targets(site, backup_id, source, to)
        with ThreadPoolExecutor(max_workers=len(others)) as pool:
            done = dict(
                zip(others, pool.map(lambda one: _copy(site, name, one, backup_id, source), others), strict=True)
            )
    if json:
        print_json({one: {"backups": backups, "wal": wal} for one, (backups, wal, _) in done.items()})
    errors = [error for _, _, found in done.values() for error in found]
    for one, (backups, wal, _) in done.items():
        if not json:
            out.print(f"{one}: {len(backups)} backups and {wal} WAL files copied", markup=False)
    for error in errors:
        print_error(error, as_json=json)
    if errors:
        raise typer.Exit(max(error.exit_code for error in errors))


def _targets(site: Site, backup_id: str | None, source: str, to: str | None) -> list[str]:
    """Return where to copy to; raises ConfigurationError for what cannot be meant."""
    possible = [one for one in (site.repositories if backup_id else _others(site)) if one != source]
    wanted = [to] if to else [one for one in _others(site) if one != source]
    if source not in site.repositories:
        raise ConfigurationError(f"no repository {source!r} to copy from", detail=", ".join(site.repositories))
    if source != site.local.name and not (backup_id and to):
        raise ConfigurationError("copied from another repository is one backup to another", hint="name ID and --to")
    if not wanted or not set(wanted) <= set(possible):
        raise ConfigurationError(
            f"no repository {to!r} to copy to" if to else "there is no repository to copy to",
            detail=", ".join(possible) or None,
            hint="`repositories` in protocol.yaml names them",
        )
    return wanted


def _copy(
    site: Site, cluster: str, repository: str, backup_id: str | None, source: str
) -> tuple[list[str], int, Sequence[PgBackupError]]:
    """Copy to one repository: WAL first, it is what is lost; return what was copied, and what went wrong."""
    backups: list[str] = []
    wal, errors = 0, list[PgBackupError]()
    try:
        wal = 0 if backup_id else copy_wal(site, cluster, repository)
    except PgBackupError as error:
        errors.append(error)
    try:
        if backup_id:
            backups = [copy_backup(site, backup_id, repository, source=source).backup_id]
        else:
            backups = [copied.backup_id for copied in copy_missing(site, cluster, repository)]
    except PgBackupError as error:
        errors.append(error)
    return backups, wal, errors


def _others(site: Site) -> list[str]:
    return [name for name in site.repositories if name != site.local.name]


def _document(backup: Backup, site: Site) -> dict[str, str]:
    states = {copy.repository: str(copy.state) for copy in backup.copies}
    return {"id": backup.id, **{name: states.get(name, _NONE) for name in site.repositories}}


def _wal_document(reached: WalCopy | None, lag: timedelta | None) -> dict[str, object]:
    return {
        "behind_seconds": round(lag.total_seconds()) if lag else None,
        "missing": reached.missing if reached else None,
        "error": reached.error if reached else "",
    }


def _wal_text(reached: WalCopy | None, lag: timedelta | None) -> str:
    if reached is None or lag is None:
        return "never copied"
    missing = f", {reached.missing} files missing" if reached.missing else ""
    return f"{span(lag)} behind{missing}"


def _print_behind(repository: str, backups: int, reached: WalCopy | None) -> None:
    """Say what a repository lacks, why, and what to do; nothing of one that has everything."""
    lacks = [f"{backups} backups"] if backups else []
    lacks += [f"{reached.missing} WAL files"] if reached and reached.missing else []
    if lacks or (reached and reached.error):
        out.print(f"{repository} lacks {' and '.join(lacks) or 'WAL'}", style="bold red", markup=False)
        if reached and reached.error:
            out.print(f"DETAIL: {' '.join(reached.error.split())}", markup=False)
        out.print(f"HINT: pgbackup copy --to {repository}", markup=False)

"""``pgbackup keys``: who can open what, and letting others open it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from pgbackup.cli.face import Cluster, Config, Json, failures, only, open_site, running
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.errors import RefusedError
from pgbackup.keys import KeyReport, Opens, add_keys, check_keys, report_keys, sign_backups

keys_app = typer.Typer(help="Who can open the backups, and who signed them.", no_args_is_help=True)
BackupName = Annotated[str | None, typer.Argument(metavar="[ID]", help="One backup; default: all.", show_default=False)]
Where = Annotated[str, typer.Option("--repository", help="Which repository; copies follow the local one.")]


@keys_app.command("add")
def add(
    backup_id: BackupName = None,
    where: Where = "local",
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Let today's recipients open old backups, by one small object each; exit 1: some could not be opened."""
    with running("keys", config, cluster, json=json) as (site, name):
        done = add_keys(site, name, where, backup_id=backup_id)
    if json:
        print_json(asdict(done))
    else:
        for key in done.added:
            out.print(f"added: {key}", markup=False)
        for one, reason in done.failures.items():
            out.print(f"FAILED {one}: {reason}", markup=False)
        out.print(f"{len(done.added)} added, {len(done.served)} needed none, {len(done.failures)} failed")
    if done.failures:
        raise typer.Exit(RefusedError.exit_code)


@keys_app.command("sign")
def sign(
    backup_id: BackupName = None,
    where: Where = "local",
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Vouch for backups from before signatures were asked for: sign those that have none."""
    with running("keys", config, cluster, json=json) as (site, name):
        signed = sign_backups(site, name, where, backup_id=backup_id)
    if json:
        print_json({"signed": signed})
    else:
        out.print("\n".join([*(f"signed: {key}" for key in signed), f"{len(signed)} signed"]), markup=False)


@keys_app.command("report")
def report(where: Where = "local", config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Show what each key opens: backups, and WAL, which no key can be added to."""
    with failures(json=json):
        site = open_site(config)
        found = report_keys(site, only(site, cluster), where)
    if json:
        print_json(asdict(found))
    else:
        _print(found)


@keys_app.command("check")
def check(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Open the oldest backup of each kind, and the oldest WAL, of each repository; exit 1: one does not open."""
    with running("keys", config, cluster, json=json) as (site, name):
        findings = check_keys(site, name)
    if json:
        print_json([finding_document(finding) for finding in findings])
    else:
        print_findings(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(RefusedError.exit_code)


def _print(found: KeyReport) -> None:
    table = Table("key", "is", "expires", "backups", "oldest", "newest", "WAL files", box=None, pad_edge=False)
    for key in found.keys:
        expires = f"{key.expires:%Y-%m-%d}" if key.expires else "-"
        roles = ", ".join(key.roles) or "not configured here"
        table.add_row(key.name, roles, expires, *_backups(key.backups), _of(key.wal))
    table.add_row("today's private keys", "", "", *_backups(found.backups), _of(found.wal))
    out.print(table)
    for one in found.lost:
        out.print(f"none of today's recipients opens {one}", style="bold red", markup=False)
    for problem in found.problems:
        out.print(problem, style="bold red", markup=False)


def _backups(opens: Opens) -> tuple[str, str, str]:
    return _of(opens), opens.oldest or "-", opens.newest or "-"


def _of(opens: Opens) -> str:
    return f"{opens.count} of {opens.of}"

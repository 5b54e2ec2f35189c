"""The commands. Each builds a Site from protocol.yaml, calls one verb, prints, and exits with DESIGN's exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from pgbackup.capture import capture_base, capture_full, capture_incremental, capture_night, preflight
from pgbackup.cli.adopt import adopt_dumps
from pgbackup.cli.audit import audit_storage
from pgbackup.cli.copies import copy_all, show_copies
from pgbackup.cli.drill import drill_app
from pgbackup.cli.face import Cluster, Config, Json, failures, open_site, running
from pgbackup.cli.keys import keys_app
from pgbackup.cli.output import (
    backup_document,
    finding_document,
    out,
    print_backups,
    print_error,
    print_findings,
    print_json,
    verdict_line,
    verification_document,
)
from pgbackup.cli.recovery import check_latest, recover_app, show_plan
from pgbackup.cli.review import review_app
from pgbackup.cli.rotation import hold_app, plan_rotation, rotate
from pgbackup.cli.sheet import sheet_app
from pgbackup.cli.status import show_status
from pgbackup.cli.wal import wal_app
from pgbackup.cli.watch import show_metrics, watch_archive
from pgbackup.copy import check_repository
from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Finding, Verdict, Verification
from pgbackup.domain.ports import Site
from pgbackup.restore.rebuild import rebuild
from pgbackup.verify import verify
from pgbackup.watch import last_look

app = typer.Typer(
    help="PostgreSQL backups that count only after they were restored and found equal to their source.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
backup_app = typer.Typer(help="Take a backup now.", no_args_is_help=True)
catalog_app = typer.Typer(help="The catalog: a cache of what the repositories hold.", no_args_is_help=True)
Check = Annotated[bool, typer.Option("--verify", help="Restore it and compare it at once.")]
app.add_typer(backup_app, name="backup")
app.add_typer(catalog_app, name="catalog")
app.add_typer(wal_app, name="wal")
app.command("adopt")(adopt_dumps)
app.add_typer(sheet_app, name="sheet")
app.command("status")(show_status)
app.command("watch")(watch_archive)
app.command("metrics")(show_metrics)
app.command("copies")(show_copies)
app.command("copy")(copy_all)
app.command("plan-recovery")(show_plan)
app.command("verify-latest")(check_latest)
app.add_typer(recover_app, name="recover")
app.add_typer(drill_app, name="drill")
app.command("plan-rotation")(plan_rotation)
app.command("rotate")(rotate)
app.add_typer(hold_app, name="hold")
app.command("audit")(audit_storage)
app.add_typer(review_app, name="review")
app.add_typer(keys_app, name="keys")


@backup_app.command("full")
def backup_full(
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
    check: Check = False,
    dump_only: Annotated[bool, typer.Option("--dump-only", help="No physical base backup.")] = False,
) -> None:
    """Dump every database and the globals, and take a base backup; exit 0: durable in the local repository."""
    with running("backup", config, cluster, json=json) as (site, name):
        manifests = (capture_full(site, name),) if dump_only else capture_night(site, name)
        verifications = [verify(site, manifest.id, "local") for manifest in manifests] if check else []
    _print_captured(manifests, verifications, json=json)


@backup_app.command("base")
def backup_base(config: Config = None, cluster: Cluster = None, json: Json = False, check: Check = False) -> None:
    """Take a physical base backup with its WAL, at a marked point of its own."""
    _capture(capture_base, config, cluster, json=json, check=check)


@backup_app.command("incremental")
def backup_incremental(
    config: Config = None, cluster: Cluster = None, json: Json = False, check: Check = False
) -> None:
    """Take what changed since the last physical backup: blocks or WAL; a base where no incremental can stand."""
    _capture(capture_incremental, config, cluster, json=json, check=check)


def _capture(
    capture: Callable[[Site, str], Manifest], config: Path | None, cluster: str | None, *, json: bool, check: bool
) -> None:
    with running("backup", config, cluster, json=json) as (site, name):
        manifests = (capture(site, name),)
        verifications = [verify(site, manifest.id, "local") for manifest in manifests] if check else []
    _print_captured(manifests, verifications, json=json)


def _print_captured(manifests: Sequence[Manifest], verifications: Sequence[Verification], *, json: bool) -> None:
    if json:
        documents = [_manifest_document(manifest) for manifest in manifests]
        for document, verification in zip(documents, verifications, strict=False):
            document["verification"] = verification_document(verification)
        print_json(documents)
    else:
        for manifest in manifests:
            out.print(f"{manifest.id}: {manifest.stored_bytes / 1e6:.1f} MB, {len(manifest.databases)} databases")
        for verification in verifications:
            print_findings(verification.findings)
            out.print(f"{verification.backup_id}: {verification.verdict}")
    if any(verification.verdict is not Verdict.VERIFIED for verification in verifications):
        raise typer.Exit(RefusedError.exit_code)


@app.command("verify")
def verify_backup(
    backup_id: Annotated[str, typer.Argument(metavar="ID")],
    repository: Annotated[str, typer.Option(help="Which copy.")] = "local",
    config: Config = None,
    json: Json = False,
) -> None:
    """Restore a backup in isolation and compare it with its source; exit 1: rejected, 3: could not judge."""
    with failures(json=json):
        cluster = BackupId.parse(backup_id).cluster
    with running("verify", config, cluster, json=json) as (site, _):
        verification = verify(site, backup_id, repository)
    if json:
        print_json(verification_document(verification))
    else:
        print_findings(verification.findings)
        out.print(verdict_line(verification), markup=False)
    if verification.verdict is not Verdict.VERIFIED:
        raise typer.Exit(RefusedError.exit_code)


@app.command("list")
def list_backups(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """List the backups of the catalog, newest first."""
    with failures(json=json):
        site = open_site(config)
        if cluster is not None:
            site.settings.cluster(cluster)
        backups = site.catalog.backups(cluster)
        if json:
            print_json([backup_document(backup) for backup in backups])
        else:
            print_backups(backups)


@app.command("show")
def show_backup(
    backup_id: Annotated[str, typer.Argument(metavar="ID")], config: Config = None, json: Json = False
) -> None:
    """Show one backup with every verification and its findings."""
    with failures(json=json):
        site = open_site(config)
        backup = site.catalog.backup(str(BackupId.parse(backup_id)))
        if backup is None:
            raise RefusedError(f"no backup {backup_id} in the catalog", hint="`pgbackup list` shows what there is")
        verifications = site.catalog.verifications(backup.id)
        if json:
            attempts = [verification_document(verification) for verification in verifications]
            print_json(backup_document(backup) | {"verifications": attempts})
            return
        print_backups([backup])
        for verification in verifications:
            out.print(
                f"\nattempt {verification.attempt} in {verification.repository}:"
                f" {verification.verdict or 'no verdict'} {verification.reason}",
                markup=False,
            )
            print_findings(verification.findings)


@app.command("doctor")
def doctor(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Check all that a backup needs: reachability, rights, versions, keys, space, clocks, repositories, the watch."""
    findings: dict[str, tuple[Finding, ...]] = {}
    with failures(json=json):
        site = open_site(config)
        for name in [cluster] if cluster else list(site.settings.clusters):
            findings[name] = (*preflight(site, name), last_look(site, name))
        with ThreadPoolExecutor() as pool:  # one that is silent delays no other
            checked = pool.map(check_repository, site.repositories.values())
            findings.update(zip((f"repository {name}" for name in site.repositories), checked, strict=True))
    if json:
        print_json({name: [finding_document(finding) for finding in found] for name, found in findings.items()})
    else:
        for name, found in findings.items():
            out.print(name, style="bold", markup=False)
            print_findings(found)
    if not all(finding.ok for found in findings.values() for finding in found):
        raise typer.Exit(3)


@catalog_app.command("rebuild")
def catalog_rebuild(
    source: Annotated[str, typer.Option("--from", help="The repository to read.")] = "local",
    config: Config = None,
    json: Json = False,
) -> None:
    """Fill the catalog from a repository's manifests and verdicts; what it knows already stays.

    Exit 1: a backup is damaged, or not signed where that is asked for; the others are recorded.
    """
    with failures(json=json):
        site = open_site(config)
        if source not in site.repositories:
            raise ConfigurationError(f"no repository {source!r}", detail=", ".join(site.repositories))
        done = rebuild(site, site.repositories[source])
    if json:
        print_json(list(done.recorded))
    else:
        out.print(f"{len(done.recorded)} backups recorded from {source}, {len(done.refused)} refused", markup=False)
    for error in done.refused:
        print_error(error, as_json=json)
    if done.refused:
        raise typer.Exit(RefusedError.exit_code)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit, so that children are ended and files removed
    app(prog_name="pgbackup")


def _manifest_document(manifest: Manifest) -> dict[str, object]:
    return {
        "id": manifest.id,
        "kind": manifest.kind,
        "method": manifest.method,
        "parent": manifest.parent,
        "backup_time": manifest.backup_time.isoformat(),
        "bytes": manifest.stored_bytes,
        "seconds": (manifest.finished_at - manifest.started_at).total_seconds(),
        "databases": [database.name for database in manifest.databases],
        "not_included": list(manifest.not_included),
    }

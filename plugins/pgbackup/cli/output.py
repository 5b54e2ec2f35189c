"""What the command line prints: tables for people, JSON for programs; errors with detail and hint, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.model import Backup, Finding, Severity, Verdict, Verification

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def print_error(error: PgBackupError, *, as_json: bool) -> None:
    """Say what went wrong, where, and what to do; JSON callers get the same to standard error as JSON."""
    if as_json:
        document = {"error": error.message, "detail": error.detail, "hint": error.hint, "exit_code": error.exit_code}
        sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
        return
    err.print(f"pgbackup: {error.message}", style="bold red", markup=False)
    if error.detail:
        err.print(f"DETAIL: {error.detail}", markup=False)
    if error.hint:
        err.print(f"HINT: {error.hint}", markup=False)


_MARKS = {
    Severity.FAILURE: "[bold red]FAILED[/]",
    Severity.WARNING: "[yellow]warns[/] ",
    Severity.UNKNOWN: "[yellow]unknown[/]",
}


def print_findings(findings: Iterable[Finding]) -> None:
    """Print one line a finding, with the hint under those that did not hold."""
    for finding in findings:
        mark = "[green]ok[/]    " if finding.ok else _MARKS[finding.severity]
        out.print(mark, f"{finding.seconds:7.2f} s ", end=" ")
        out.print(f"{finding.name}" + (f": {finding.detail}" if finding.detail else ""), markup=False)
        if not finding.ok and finding.hint:
            out.print(f"                   HINT: {finding.hint}", markup=False)


def verdict_line(verification: Verification) -> str:
    """Say what a verification concluded, and what a verified backup was not compared with."""
    remark = f" ({verification.reason})" if verification.verdict is Verdict.VERIFIED and verification.reason else ""
    return f"{verification.backup_id} in {verification.repository}: {verification.verdict}{remark}"


def print_backups(backups: Sequence[Backup]) -> None:
    """Print the catalog, newest first."""
    table = Table(box=None, pad_edge=False)
    for column in ("id", "state", "backup time (UTC)", "size", "duration", "copies"):
        table.add_column(column, justify="right" if column in {"size", "duration"} else "left")
    for backup in backups:
        copies = ", ".join(f"{copy.repository} {copy.state}" for copy in backup.copies)
        table.add_row(
            backup.id,
            backup.state,
            f"{backup.backup_time:%Y-%m-%d %H:%M:%S}" if backup.backup_time else "",
            f"{backup.bytes / 1e6:.1f} MB" if backup.bytes is not None else "",
            f"{(backup.finished_at - backup.started_at).total_seconds():.1f} s" if backup.finished_at else "",
            copies,
        )
    out.print(table if backups else "no backups")


def backup_document(backup: Backup) -> dict[str, Any]:
    """Return what ``list --json`` prints for one backup."""
    return {
        "id": backup.id,
        "kind": backup.kind,
        "method": backup.method,
        "state": backup.state,
        "cluster": backup.cluster,
        "backup_time": _iso(backup.backup_time),
        "started_at": _iso(backup.started_at),
        "finished_at": _iso(backup.finished_at),
        "bytes": backup.bytes,
        "parent": backup.parent,
        "error": backup.error,
        "copies": [
            {"repository": copy.repository, "state": copy.state, "verified_at": _iso(copy.verified_at)}
            for copy in backup.copies
        ],
    }


def verification_document(verification: Verification) -> dict[str, Any]:
    """Return what ``verify --json`` prints."""
    return {
        "id": verification.backup_id,
        "verdict": verification.verdict,
        "repository": verification.repository,
        "attempt": verification.attempt,
        "seconds": verification.seconds,
        "reason": verification.reason,
        "findings": [finding_document(finding) for finding in verification.findings],
    }


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return one finding as JSON has it."""
    return {
        "name": finding.name,
        "ok": finding.ok,
        "seconds": finding.seconds,
        "detail": finding.detail,
        "hint": finding.hint,
    }


class TerminalProgress:
    """A bar a stream, on a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=err
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, label: str, count: int) -> None:
        """Move a stream's bar."""
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=None)
        self._progress.update(self._tasks[label], completed=count)


def _iso(moment: Any) -> str | None:
    return moment.isoformat() if moment is not None else None

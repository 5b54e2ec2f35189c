"""What the commands of recovery share: where to, where from, and how a plan is printed."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from pgbackup.cli.output import out
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.wal import Stretch

To = Annotated[str | None, typer.Option("--to", help="latest, or a moment with its time zone: 2026-01-31T02:00:00Z.")]
ToLsn = Annotated[str | None, typer.Option("--lsn", help="A position in the WAL, such as 16/B374D848.")]
ToXid = Annotated[int | None, typer.Option("--xid", help="A transaction that is the last one to come back.")]
ToName = Annotated[str | None, typer.Option("--name", help="A named restore point (pg_create_restore_point).")]
OnTimeline = Annotated[int | None, typer.Option("--timeline", help="Another history than the newest one.", min=1)]
Source = Annotated[
    str | None,
    typer.Option(
        "--from", help="The only repository to read; default: local, or the best of the others.", show_default=False
    ),
]


def print_plan(plan: RecoveryPlan) -> None:
    """Print a plan: what comes back, from what, in which steps, and what to know before."""
    out.print(f"{plan.cluster} to {plan.target}: {plan.target.meaning}", markup=False)
    if plan.stop != plan.target:
        out.print(f"  which is at {plan.stop}", markup=False)
    out.print(f"  chain     {' + '.join(plan.chain)}, from {plan.repository}", markup=False)
    for bundle in plan.bundles:
        out.print(f"  bundle    {bundle}", markup=False)
    for one in plan.wal:
        out.print(f"  WAL       timeline {one.timeline}: {one.start} to {one.end}", markup=False)
    if plan.loses:
        out.print(f"  loses     {plan.loses} of what the archive holds", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("step", "size", "predicted"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step in plan.steps:
        table.add_row(step.name, f"{step.bytes / 1e6:.1f} MB" if step.bytes else "", f"{step.seconds:.1f} s")
    table.add_row("total", "", f"{plan.seconds:.1f} s")
    out.print(table)
    for warning in plan.warnings:
        out.print(f"note: {warning}", markup=False)


def plan_document(plan: RecoveryPlan) -> dict[str, Any]:
    """Return what ``plan-recovery --json`` prints."""
    return {
        "cluster": plan.cluster,
        "system_identifier": plan.system_identifier,
        "repository": plan.repository,
        "target": {"kind": plan.target.kind, "text": str(plan.target), "meaning": plan.target.meaning},
        "timeline": plan.timeline,
        "chain": list(plan.chain),
        "bundles": list(plan.bundles),
        "wal": [_stretch(one) for one in plan.wal],
        "archived": [_stretch(one) for one in plan.archived],
        "steps": [{"name": step.name, "bytes": step.bytes, "seconds": round(step.seconds, 1)} for step in plan.steps],
        "seconds": round(plan.seconds, 1),
        "loses_seconds": None if plan.loses is None else plan.loses.total_seconds(),
        "warnings": list(plan.warnings),
    }


def _stretch(one: Stretch) -> dict[str, Any]:
    return {"timeline": one.timeline, "start": str(one.start), "end": str(one.end)}

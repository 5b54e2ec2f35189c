"""The command that puts a recovered cluster in the place of the present one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgbackup.cli.face import Cluster, Config, Json, running
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.cli.rows import Reindex, Yes, fail_unless_ok, refuse_unless
from pgbackup.recover import Switched, SwitchPlan, plan_switch, switch_facts, switch_over, switch_steps


def switch_to(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `recover cluster` made; its server stopped.")],
    yes: Yes = None,
    reindex: Reindex = False,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Put a recovered cluster in the place of the present one, which is renamed and kept; exit 1: look at it."""
    with running("switch", config, cluster, json=json) as (site, known):
        plan = plan_switch(site, known, folder)
        if not json:
            print_switch_plan(plan)
        refuse_unless(yes, known, f"{known} is stopped and {plan.data} is replaced")
        done = switch_over(site, plan, reindex=reindex)
    if json:
        print_json(switched_document(done))
    else:
        print_switched(done)
    fail_unless_ok(done.findings)


def print_switch_plan(plan: SwitchPlan) -> None:
    """Print what will be renamed, and what has to be known before."""
    for step in switch_steps(plan):
        out.print(step, markup=False)


def print_switched(done: Switched) -> None:
    """Print how it went, what is left to do, and the way back."""
    print_findings(done.findings)
    for fact in switch_facts(done):
        out.print(fact, markup=False)
    if done.undo:
        out.print("to undo it, losing what was written since:", markup=False)
    for command in done.undo:
        out.print(f"    {command}", markup=False)


def switched_document(done: Switched) -> dict[str, Any]:
    """Return what ``recover switch --json`` prints."""
    plan = done.plan
    return {
        "cluster": plan.cluster,
        "data_directory": str(plan.data),
        "before": str(plan.before) if plan.before else None,
        "timeline": plan.timeline,
        "seconds_without_writes": round(done.unwritten, 1),
        "seconds_without_connections": round(done.unreachable, 1),
        "findings": [finding_document(finding) for finding in done.findings],
        "notes": list(done.notes),
        "undo": list(done.undo),
    }

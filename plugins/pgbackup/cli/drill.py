"""``pgbackup drill``: try recoveries into isolation, and list what was tried."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from pgbackup.cli.face import Cluster, Config, Json, failures, only, open_site, running
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.drill import Drill, Scenario, drill_document
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ports import Site
from pgbackup.drill import drill
from pgbackup.report.drill import DrillReport, compose_drill, drill_text
from pgbackup.shelf import keep_report

drill_app = typer.Typer(help="Recovery drills: into isolation, judged and measured.", no_args_is_help=True)


@drill_app.command("run")
def run_drills(
    scenario: Annotated[
        list[Scenario] | None, typer.Option(help="Which one, more than once for several; default: all of them.")
    ] = None,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Recover into isolation, answer the checklist, measure, remove it; exit 1: an item does not hold."""
    done: list[Drill] = []
    with running("drill", config, cluster, json=json) as (site, known):
        for one in scenario or list(Scenario):
            done.append(drill(site, known, one))
            _keep(site, known, done)
            if not json:
                _print(done[-1])
    if json:
        print_json([_document(one) for one in done])
    if not all(one.ok for one in done):
        raise typer.Exit(RefusedError.exit_code)


@drill_app.command("list")
def list_drills(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """List the drills that were done, newest first."""
    with failures(json=json):
        site = open_site(config)
        drills = site.catalog.drills(only(site, cluster))
    if json:
        print_json([_document(one) for one in drills])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("when (UTC)", "scenario", "holds", "took", "predicted", "lost"):
        table.add_column(column, justify="right" if column in {"took", "predicted", "lost"} else "left")
    for one in drills:
        table.add_row(
            f"{one.started_at:%Y-%m-%d %H:%M:%S}",
            one.scenario.label,
            "yes" if one.ok else "NO",
            f"{one.rto_seconds:.1f} s",
            f"{one.predicted_seconds:.1f} s",
            "" if one.rpo_seconds is None else f"{one.rpo_seconds:.1f} s",
        )
    out.print(table if drills else "no drills")


def _keep(site: Site, cluster: str, done: list[Drill]) -> None:
    """Keep the report of what was drilled so far."""
    holds, history = all(one.ok for one in done), site.catalog.drills(cluster)
    settings = site.settings
    report = DrillReport(cluster, holds, settings.objectives, tuple(done), history, contacts=settings.contacts)
    html, text = compose_drill(report)[1], drill_text(report)
    keep_report(settings, cluster, done[0].started_at, "recovery_drill", html=html, text=text)


def _print(done: Drill) -> None:
    out.print(f"{done.scenario.label}: {done.subject}", style="bold", markup=False)
    for step in done.steps:
        out.print(f"  {step.seconds:8.1f} s  {step.name} (predicted {step.predicted:.1f} s)", markup=False)
    print_findings(done.findings)


def _document(done: Drill) -> dict[str, Any]:
    return {
        **drill_document(done),
        "ok": done.ok,
        "rto_seconds": done.rto_seconds,
        "predicted_seconds": done.predicted_seconds,
        "findings": [finding_document(finding) for finding in done.findings],
    }

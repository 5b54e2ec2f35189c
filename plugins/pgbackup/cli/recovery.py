"""The commands of recovery: what would be done, and doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgbackup.cli.face import Cluster, Config, Json, running
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.cli.plans import OnTimeline, Source, To, ToLsn, ToName, ToXid, plan_document, print_plan
from pgbackup.cli.rows import cut_over_to, list_what_is_old, recover_a_database, recover_a_table
from pgbackup.cli.switch import switch_to
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.target import parse_target
from pgbackup.recover import Recovered, recover_cluster, stop_command, verify_latest
from pgbackup.recover import plan as plan_recovery

recover_app = typer.Typer(help="Bring back what was lost, beside what is there.", no_args_is_help=True)
recover_app.command("database")(recover_a_database)
recover_app.command("table")(recover_a_table)
recover_app.command("cutover")(cut_over_to)
recover_app.command("switch")(switch_to)
recover_app.command("old")(list_what_is_old)


@recover_app.command("cluster")
def recover_a_cluster(
    into: Annotated[Path, typer.Option(help="The data directory to make; it must not exist, or be empty.")],
    to: To = None,
    lsn: ToLsn = None,
    xid: ToXid = None,
    name: ToName = None,
    timeline: OnTimeline = None,
    source: Source = None,
    port: Annotated[int | None, typer.Option(help="Start a server on it, on 127.0.0.1.", min=1, max=65535)] = None,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Recover a cluster to a target into a new data directory; repeat the command to go on after an interruption."""
    with running("recover", config, cluster, json=json) as (site, known):
        target = parse_target(to, lsn=lsn, xid=xid, name=name)
        recovered = recover_cluster(site, known, target, into=into, timeline=timeline, repository=source, port=port)
    if json:
        print_json(recovered_document(recovered))
    else:
        print_recovered(recovered)


def show_plan(
    to: To = None,
    lsn: ToLsn = None,
    xid: ToXid = None,
    name: ToName = None,
    timeline: OnTimeline = None,
    source: Source = None,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Show how a cluster would be recovered to a target, and how long it takes; exit 1: it cannot, and what can."""
    with running("plan", config, cluster, json=json) as (site, known):
        target = parse_target(to, lsn=lsn, xid=xid, name=name)
        plan = plan_recovery(site, known, target, timeline=timeline, repository=source)
    if json:
        print_json(plan_document(plan))
    else:
        print_plan(plan)


def check_latest(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Recover the newest archived moment in isolation, say what came back, and remove it; exit 1: out of reach."""
    with running("verify_latest", config, cluster, json=json) as (site, known):
        finding = verify_latest(site, known)
    if json:
        print_json(finding_document(finding))
    else:
        print_findings([finding])
    if not finding.ok:
        raise typer.Exit(RefusedError.exit_code)


def print_recovered(recovered: Recovered) -> None:
    """Print what came back, how long it took, and what to do with it."""
    found, folder = recovered.replayed, recovered.folder
    for step in recovered.steps:
        out.print(f"  {step.seconds:8.1f} s  {step.name}", markup=False)
    out.print(
        f"{recovered.plan.cluster} is recovered in {folder}: to {found.lsn}, now timeline {found.timeline}",
        markup=False,
    )
    if found.last_commit or found.heartbeat:
        out.print(f"last transaction {found.last_commit}, last heartbeat {found.heartbeat}", markup=False)
    for gid in found.prepared:
        out.print(f"note: prepared transaction {gid!r} waits for COMMIT PREPARED or ROLLBACK PREPARED", markup=False)
    if recovered.port is not None:
        out.print(f"a server runs on 127.0.0.1:{recovered.port}; it stops by: {stop_command(folder)}", markup=False)


def recovered_document(recovered: Recovered) -> dict[str, Any]:
    """Return what ``recover cluster --json`` prints."""
    found = recovered.replayed
    return {
        "cluster": recovered.plan.cluster,
        "folder": str(recovered.folder),
        "lsn": str(found.lsn),
        "timeline": found.timeline,
        "last_commit": found.last_commit.isoformat() if found.last_commit else None,
        "heartbeat": found.heartbeat.isoformat() if found.heartbeat else None,
        "prepared_transactions": list(found.prepared),
        "seconds": round(sum(step.seconds for step in recovered.steps), 1),
        "steps": [
            {"name": step.name, "bytes": step.bytes, "seconds": round(step.seconds, 1)} for step in recovered.steps
        ],
        "port": recovered.port,
        "stop": stop_command(recovered.folder) if recovered.port is not None else None,
    }

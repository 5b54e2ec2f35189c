"""The commands that bring back a database or a table of the protected server from a dump."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from pgbackup.cli.face import Cluster, Config, Json, running
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.cli.plans import OnTimeline, Source, To, ToLsn, ToName, ToXid, print_plan
from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.model import Finding
from pgbackup.domain.target import Target, parse_target
from pgbackup.recover import (
    CutoverPlan,
    DatabasePlan,
    FromMoment,
    Origin,
    RecoveredTable,
    TablePlan,
    Way,
    cut_over,
    list_old,
    plan_cutover,
    plan_database,
    plan_table,
    recover_database,
    recover_table,
)

Database = Annotated[str, typer.Argument(metavar="DATABASE")]
Backup = Annotated[
    str | None,
    typer.Option("--backup", help="A full backup; default: the newest verified one, or a moment.", show_default=False),
]
Rejected = Annotated[bool, typer.Option("--even-rejected", help="Take the named backup although it was rejected.")]
Yes = Annotated[
    str | None, typer.Option("--yes-replace", metavar="CLUSTER", help="Do it; the cluster's name.", show_default=False)
]
Reindex = Annotated[bool, typer.Option("--reindex", help="Build indexes of other collation versions anew.")]


def recover_a_database(
    database: Database,
    backup: Backup = None,
    to: To = None,
    lsn: ToLsn = None,
    xid: ToXid = None,
    name: ToName = None,
    timeline: OnTimeline = None,
    new_name: Annotated[str | None, typer.Option("--as", help="The new database's name.", show_default=False)] = None,
    source: Source = None,
    even_rejected: Rejected = False,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Restore a database beside the present one, from a backup or at a moment; exit 1: it does not equal its source."""
    with running("recover", config, cluster, json=json) as (site, known):
        plan = plan_database(
            site,
            known,
            database,
            backup,
            target=_target(to, lsn, xid, name),
            timeline=timeline,
            name=new_name,
            repository=source,
            even_rejected=even_rejected,
        )
        if not json:
            print_database_plan(plan)
        recovered = recover_database(site, plan)
    if json:
        document = {
            **_document(plan),
            "name": recovered.name,
            "findings": [finding_document(finding) for finding in recovered.findings],
            "seconds": round(sum(step.seconds for step in recovered.steps), 1),
        }
        print_json(document)
    else:
        for note in recovered.notes:
            out.print(f"note: {note}", markup=False)
        for step in recovered.steps:
            out.print(f"  {step.seconds:8.1f} s  {step.name}", markup=False)
        print_findings(recovered.findings)
        out.print(f"restored as {recovered.name!r}; nothing else was touched", markup=False)
        if recovered.ok:
            out.print(f"to put it in place: pgbackup recover cutover {database!r} {recovered.name!r}", markup=False)
    fail_unless_ok(recovered.findings)


def recover_a_table(
    database: Database,
    table: Annotated[str, typer.Argument(metavar="SCHEMA.TABLE", help="Without quotes.")],
    backup: Backup = None,
    to: To = None,
    lsn: ToLsn = None,
    xid: ToXid = None,
    name: ToName = None,
    timeline: OnTimeline = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the rows; the present ones are kept.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Add the rows whose primary key is missing.")] = False,
    yes: Yes = None,
    source: Source = None,
    even_rejected: Rejected = False,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Recover a table, from a backup or at a moment, beside the present one; one that is gone is made again."""
    with running("recover", config, cluster, json=json) as (site, known):
        if in_place and merge:
            raise ConfigurationError("--in-place or --merge, not both")
        way = Way.IN_PLACE if in_place else Way.MERGE if merge else Way.BESIDE
        plan = plan_table(
            site,
            known,
            database,
            table,
            backup,
            target=_target(to, lsn, xid, name),
            timeline=timeline,
            way=way,
            repository=source,
            even_rejected=even_rejected,
        )
        if not json:
            print_table_plan(plan)
        if plan.present and way is Way.IN_PLACE:
            refuse_unless(yes, known, f"the rows of {table} are replaced")
        recovered = recover_table(site, plan)
    if json:
        print_json({**_document(plan), **_document(recovered)})
    else:
        print_recovered_table(recovered)


def cut_over_to(
    database: Database,
    restored: Annotated[str, typer.Argument(metavar="RESTORED", help="The database that takes its place.")],
    yes: Yes = None,
    reindex: Reindex = False,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Put a restored database in the place of the present one, which is renamed and kept; exit 1: look at it."""
    with running("cutover", config, cluster, json=json) as (site, known):
        plan = plan_cutover(site, known, database, restored)
        if not json:
            print_cutover_plan(plan)
        refuse_unless(yes, known, f"{database} is replaced and its sessions end")
        done = cut_over(site, plan, reindex=reindex)
    if json:
        print_json({**_document(plan), "seconds": done.seconds, "findings": list(map(finding_document, done.findings))})
    else:
        print_findings(done.findings)
        out.print(f"{restored!r} is {database!r} now; nobody could connect for {done.seconds:.1f} s", markup=False)
    fail_unless_ok(done.findings)


def list_what_is_old(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """List what recoveries made or set aside, with the statement that drops each; nothing is dropped here."""
    with running("recover", config, cluster, json=json) as (site, known):
        found = list_old(site, known)
    if json:
        print_json([{"database": database or None, **_document(one)} for database, one in found])
        return
    for database, one in found:
        place = f" in {database}" if database else ""
        busy = f", {one.sessions} sessions" if one.sessions else ""
        out.print(f"{one.name}{place}: {one.bytes / 1e6:.1f} MB{busy}; {one.comment}", markup=False)
        out.print(f"    {one.drop};", markup=False)


def print_database_plan(plan: DatabasePlan) -> None:
    """Print what will be restored, and what an earlier recovery left."""
    size = f": {plan.tables} tables, {plan.database_bytes / 1e6:.1f} MB" if plan.database_bytes is not None else ""
    out.print(f"{plan.database!r} of {_origin(plan.origin)} becomes {plan.name!r}{size}", markup=False)
    for one in plan.leftovers:
        out.print(f"note: {one.name!r} is of an earlier recovery: {one.drop}; when nobody needs it", markup=False)
    _print_work(plan.origin)


def print_table_plan(plan: TablePlan) -> None:
    """Print what will be done to a table."""
    what = str(plan.way) if plan.present else "made again: it is gone"
    rows = "" if plan.rows is None else f"{plan.rows} rows of "
    out.print(f"{rows}{plan.schema_name}.{plan.name} of {_origin(plan.origin)}: {what}", markup=False)
    _print_work(plan.origin)


def _origin(origin: Origin) -> str:
    if isinstance(origin, FromMoment):
        return f"{origin}, from {origin.recovery.repository}"
    moment = f"{origin.backup_time:%Y-%m-%d %H:%M:%S} UTC"
    return f"{origin} ({moment}, {origin.verdict or 'not verified'}), from {origin.repository}"


def _print_work(origin: Origin) -> None:
    if isinstance(origin, FromMoment):
        print_plan(origin.recovery)
        needs, free = origin.needs / 1e6, origin.free / 1e6
        out.print(f"  a side server in the spool needs {needs:.1f} MB, {free:.1f} MB are free", markup=False)


def print_recovered_table(recovered: RecoveredTable) -> None:
    """Print where the rows are, and what the next step would do."""
    plan = recovered.plan
    for note in recovered.notes:
        out.print(f"note: {note}", markup=False)
    if recovered.staged is None:
        out.print(f"{recovered.added} rows are in {plan.schema_name}.{plan.name}", markup=False)
        if recovered.before:
            out.print(f"the rows that were there: {recovered.before}", markup=False)
        return
    out.print(f"{recovered.rows} rows are in {recovered.staged}; nothing else was touched", markup=False)
    if recovered.missing is not None:
        out.print(f"--merge would add {recovered.missing} of them", markup=False)
    for one in recovered.violations:
        out.print(f"--in-place would leave without what they refer to: {one}", markup=False)


def print_cutover_plan(plan: CutoverPlan) -> None:
    """Print what will be renamed."""
    if plan.done:
        out.print(f"{plan.restored!r} has the name {plan.database!r} already; the application is checked", markup=False)
        return
    if plan.before is not None:
        out.print(f"{plan.database!r} becomes {plan.before!r}; {plan.sessions} sessions end", markup=False)
    out.print(f"{plan.restored!r} becomes {plan.database!r}", markup=False)
    for note in (*plan.collations, *plan.notes):
        out.print(f"note: {note}", markup=False)


def refuse_unless(yes: str | None, cluster: str, what: str) -> None:
    """Raise ConfigurationError unless the cluster's name was given as a confirmation."""
    if yes != cluster:
        raise ConfigurationError(f"nothing was done: {what}", hint=f"to do it: --yes-replace {cluster}")


def fail_unless_ok(findings: tuple[Finding, ...]) -> None:
    """Exit 1 when something does not hold."""
    if not all(finding.ok for finding in findings):
        raise typer.Exit(RefusedError.exit_code)


def _target(to: str | None, lsn: str | None, xid: int | None, name: str | None) -> Target | None:
    """Read a target where there is one."""
    if all(one is None for one in (to, lsn, xid, name)):
        return None
    return parse_target(to, lsn=lsn, xid=xid, name=name)


def _document(noun: object) -> dict[str, Any]:
    document: dict[str, Any] = TypeAdapter(type(noun)).dump_python(noun, mode="json")
    return {key: value for key, value in document.items() if key != "plan"}

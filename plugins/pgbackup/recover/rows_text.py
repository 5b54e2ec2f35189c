"""What people read of a recovered database or table, and of a cutover, in Markdown: the plan, then the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgbackup.domain.findings import remark
from pgbackup.recover.cutover import CutOver, CutoverPlan
from pgbackup.recover.database import DatabasePlan, RecoveredDatabase
from pgbackup.recover.markdown import findings_table, in_seconds, megabytes, moment, plain, table
from pgbackup.recover.origin import FromBackup, Origin
from pgbackup.recover.put import PutPlan
from pgbackup.recover.table import RecoveredTable, TablePlan, Way
from pgbackup.recover.text import chain


def database_plan_text(plan: DatabasePlan) -> str:
    """Show which database will be made, from what, and what an earlier recovery left."""
    size = f"{plan.tables} tables, {megabytes(plan.database_bytes)}" if plan.database_bytes is not None else "unknown"
    return _lines(
        f"Recover database **{plain(plan.database)}** of {plan.cluster} beside, as **{plain(plan.name)}**.",
        "The present database is not touched; a cutover is another step, with an approval of its own.",
        "",
        *table(("", ""), (*_source(plan.origin), (_held(plan.origin), size))),
        *_work(plan.origin),
        "",
        *(
            f"- note: {plain(one.name)} is of an earlier recovery, {megabytes(one.bytes)};"
            f" when nobody needs it: {plain(one.drop)};"
            for one in plan.leftovers
        ),
        *_warnings(plan.origin),
    )


def database_report_text(recovered: RecoveredDatabase, approved: str) -> str:
    """Tell whether the new database equals its source, how long it took, and what to do next."""
    plan, name = recovered.plan, plain(recovered.name)
    if recovered.ok:
        equal = f"; {unlike}" if (unlike := remark(recovered.findings)) else ", equal to its source"
        said = f"Database **{plain(plan.database)}** of {plan.cluster} is recovered as **{name}**{equal}."
        following = (
            "look at it, then put it in place: "
            f"`pgbackup recover cutover` with the names {plain(plan.database)} and {name}"
        )
    else:
        said = f"**{name}** holds what came of **{plain(plan.database)}**, and does NOT equal its source."
        following = "it keeps its unfinished name and cannot be cut over to; recover from another backup or moment"
    return _lines(
        said,
        "The present database was not touched.",
        "",
        *table(("", ""), (*_source(plan.origin), ("approval", plain(approved)))),
        "",
        *findings_table(recovered.findings),
        "",
        *table(("step", "measured"), _measured((step.name, step.seconds) for step in recovered.steps)),
        "",
        *(f"- note: {plain(note)}" for note in recovered.notes),
        f"- {following}",
        "- what recoveries made, with the statement that drops each: `pgbackup recover old`",
    )


def table_plan_text(plan: TablePlan) -> str:
    """Show what will be done to a table, and from what."""
    known = () if plan.rows is None else (("rows there", str(plan.rows)),)
    return _lines(
        f"Recover table **{_name(plan)}** in database **{plain(plan.database)}** of {plan.cluster}: {_deed(plan)}.",
        "",
        *table(("", ""), (*_source(plan.origin), *known)),
        *_work(plan.origin),
        "",
        *_warnings(plan.origin),
    )


def put_plan_text(plan: PutPlan) -> str:
    """Show what will happen to the rows of a table that others lie beside."""
    recovered, name = plan.recovered, _name(plan.recovered.plan)
    deed = {
        Way.IN_PLACE: f"its {plan.rows} rows are REPLACED by {plan.adds}, and kept in a table beside it",
        Way.MERGE: f"{plan.adds} rows whose primary key is missing are added to its {plan.rows}; none of them changes",
    }[plan.way]
    return _lines(
        f"Put rows into **{name}** of {plain(recovered.plan.database)}, {recovered.plan.cluster}: {deed}.",
        "",
        *table(("", ""), (("rows beside", f"{recovered.rows} in {plain(recovered.staged or '')}"),)),
        "",
        *(f"- note: {plain(note)}" for note in recovered.notes),
        "- every foreign key holds, in both directions; it is looked at again with the table locked",
        "- nobody can read or write the table while it is done; all of it is one transaction",
    )


def table_report_text(recovered: RecoveredTable, approved: str) -> str:
    """Tell where the rows are, what was not as before, and what to do next."""
    plan = recovered.plan
    if recovered.staged is None:
        said = f"**{recovered.added}** rows are in **{_name(plan)}** of {plain(plan.database)}, {plan.cluster}."
    else:
        said = f"**{recovered.rows}** rows are beside, in **{plain(recovered.staged)}**. Nothing else was touched."
    return _lines(
        said,
        "",
        *table(("", ""), (*_source(plan.origin), ("way", _deed(plan)), ("approval", plain(approved)))),
        "",
        *(f"- note: {plain(note)}" for note in recovered.notes),
        *(f"- {step}" for step in _next_steps(recovered)),
    )


def cutover_plan_text(plan: CutoverPlan) -> str:
    """Show what will be renamed, and what to know before."""
    database, restored = plain(plan.database), plain(plan.restored)
    if plan.done:
        return f"**{restored}** has the name **{database}** already: the application is checked, nothing else is done."
    old = () if plan.before is None else ((database, plain(plan.before), f"{plan.sessions} sessions end; it is kept"),)
    return _lines(
        f"Cut over in {plan.cluster}: **{restored}** takes the place of **{database}**, in one transaction.",
        "",
        *table(("database", "becomes", ""), (*old, (restored, database, "the application's from then on"))),
        "",
        *(f"- needs a REINDEX first: {plain(one)}" for one in plan.collations),
        *(f"- note: {plain(note)}" for note in plan.notes),
        "- what was written into the present database since the moment that was restored is in the old one only",
    )


def cutover_report_text(done: CutOver, approved: str) -> str:
    """Tell how long nobody could connect, whether the application can work, and where the old database is."""
    plan = done.plan
    kept = "none: there was no such database" if plan.before is None else plain(plan.before)
    facts = (
        ("nobody could connect for", in_seconds(done.seconds)),
        ("the old database", kept),
        ("approval", plain(approved)),
    )
    return _lines(
        f"**{plain(plan.restored)}** is **{plain(plan.database)}** of {plan.cluster} now.",
        "" if done.ok else "**The application cannot work in it as it should: see the findings.**",
        "",
        *table(("", ""), facts),
        "",
        *findings_table(done.findings),
        "",
        "- the old database is dropped by nobody but you: `pgbackup recover old` shows the statement",
        f"- take a full backup of what is there now: run {plan.cluster}_full_backup",
    )


def _lines(*lines: str) -> str:
    """Join lines, never two empty ones in a row: what there is nothing to say of leaves no gap."""
    kept = (line for line, before in zip(lines, ("", *lines), strict=False) if line or before)
    return "\n".join(kept).strip()


def _name(plan: TablePlan) -> str:
    return plain(f"{plan.schema_name}.{plan.name}")


def _deed(plan: TablePlan) -> str:
    if not plan.present:
        return "it is gone, and is made again by its own name"
    return {
        Way.BESIDE: "its rows go into a new table beside it",
        Way.IN_PLACE: "its rows are REPLACED under its OID; the present ones are kept in a table beside it",
        Way.MERGE: "rows whose primary key is missing are added; no row that is there changes",
    }[plan.way]


def _source(origin: Origin) -> Iterator[tuple[str, str]]:
    if isinstance(origin, FromBackup):
        yield "from", f"{origin.backup_id}, {origin.verdict or 'not verified'}, in {origin.repository}"
        yield "as it was at", moment(origin.backup_time)
        return
    recovery = origin.recovery
    yield "as it was at", f"{plain(str(recovery.target))}: {recovery.target.meaning}"
    if recovery.stop != recovery.target:
        yield "which is at", str(recovery.stop)
    yield "chain", chain(recovery)
    for one in recovery.wal:
        yield "WAL", f"timeline {one.timeline}: {one.start} to {one.end}"
    yield "side server", f"in the spool; needs {megabytes(origin.needs)}, {megabytes(origin.free)} are free"


def _held(origin: Origin) -> str:
    return "holds" if isinstance(origin, FromBackup) else "held in the last backup before"


def _work(origin: Origin) -> Iterator[str]:
    """Show the steps up to the moment; how long a dump takes to restore is not predicted."""
    if isinstance(origin, FromBackup):
        return
    plan = origin.recovery
    steps = [(step.name, megabytes(step.bytes), in_seconds(step.seconds)) for step in plan.steps]
    yield ""
    yield from table(("step", "size", "predicted"), [*steps, ("total, without dump", "", in_seconds(plan.seconds))])


def _warnings(origin: Origin) -> Iterator[str]:
    warnings = () if isinstance(origin, FromBackup) else origin.recovery.warnings
    return (f"- note: {plain(warning)}" for warning in warnings)


def _measured(steps: Iterable[tuple[str, float]]) -> Iterator[tuple[str, str]]:
    total = 0.0
    for name, seconds in steps:
        total += seconds
        yield name, in_seconds(seconds)
    yield "total", in_seconds(total)


def _next_steps(recovered: RecoveredTable) -> Iterator[str]:
    if recovered.staged is None:
        if recovered.before:
            yield f"the rows that were there are kept in {plain(recovered.before)}; drop it when nobody needs it"
        return
    if recovered.missing is not None:
        yield f"a merge would add {recovered.missing} of them"
    for one in recovered.violations:
        yield f"in place they would leave without what they refer to: {plain(str(one))}"
    yield f"take from {plain(recovered.staged)} what you need, then drop it"

"""``pgbackup status``: how recovery stands, as the Recovery page says it. The catalog alone is asked."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from datetime import datetime

import typer
from rich.table import Table
from rich.text import Text

from pgbackup.cli.face import Cluster, Config, Json, failures, open_site
from pgbackup.cli.output import out, print_json
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import State
from pgbackup.overview import Level, Overview, overview, overview_json
from pgbackup.overview.document import Repository

_SAID = {
    Level.GOOD: Text("recoverable", "green"),
    Level.UNKNOWN: Text("not known yet", "yellow"),
    Level.BAD: Text("needs attention", "bold red"),
}


def show_status(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Say what would be lost now, what can be recovered, and what does not hold; exit 1: not every cluster is well."""
    with failures(json=json):
        site = open_site(config)
        shown = [overview(site, name) for name in ([cluster] if cluster else site.settings.clusters)]
    if json:
        print_json([json_text.loads(overview_json(one)) for one in shown])
    else:
        for one in shown:
            _print(one)
    if any(one.summary.level is not Level.GOOD for one in shown):
        raise typer.Exit(RefusedError.exit_code)


def _print(shown: Overview) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _rows(shown):
        table.add_row(Text(name), value if isinstance(value, Text) else Text(value))
    out.print(table)


def _rows(shown: Overview) -> Iterator[tuple[str, str | Text]]:
    summary = shown.summary
    yield summary.cluster, _SAID[summary.level]
    lost, allowed = _span(summary.loss_seconds), _span(summary.rpo_seconds)
    yield "RPO now", f"{lost} would be lost at most, {allowed} allowed"
    yield "RTO", f"{_span(summary.predicted_seconds)} predicted, {_span(summary.rto_seconds)} allowed"
    yield "last verified backup", _utc(summary.last_verified)
    reach = f"{_utc(summary.earliest)} to {_utc(summary.latest)}, seen {_utc(summary.watched_at)}"
    yield "can be recovered", reach if summary.latest else "no moment is known"
    for one in shown.repositories:
        yield f"copies in {one.name}", _copies(one)
    for hold in shown.prospect.holds if shown.prospect else ():
        yield "held", f"{hold.backup_id} by {hold.owner}: {hold.reason}, until {_utc(hold.expires_at)}"
    for problem in summary.problems:
        yield "does not hold", Text(": ".join(filter(None, (problem.name, problem.detail))), "red")
        if problem.hint:
            yield "", f"HINT: {problem.hint}"
    holds = sum(one.ok for one in shown.watched)
    yield "findings", f"{holds} of {len(shown.watched)} hold" if shown.watched else "none: DAG wal_watch records them"
    verified = sum(one.state is State.VERIFIED for one in shown.backups)
    yield "backups", f"{verified} verified of {len(shown.backups)}\n"


def _copies(one: Repository) -> str:
    held = one.holdings
    parts = [
        f"{sum(each.copies for each in held)} copies, {sum(each.verified for each in held)} verified",
        f"{sum(each.bytes for each in held) / 1e6:.1f} MB",
    ]
    if damaged := sum(each.damaged for each in held):
        parts.append(f"{damaged} DAMAGED")
    if one.wal_until or one.wal_error:
        parts.append(f"WAL until {_utc(one.wal_until)}")
    return ", ".join([*parts, *filter(None, (one.wal_error,))])


def _utc(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "never"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    units = ((172_800, 86_400, "days"), (5400, 3600, "h"), (90, 60, "min"))
    said = (f"{round(seconds / size, 1):g} {unit}" for least, size, unit in units if seconds >= least)
    return next(said, f"{seconds:.0f} s")

"""``pgbackup review``: the protocol's maintenance lists, looked at now; the report is kept."""

from __future__ import annotations

import typer

from pgbackup.cli.face import Cluster, Config, Json, running
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.review import Period
from pgbackup.report.review import ReviewReport, compose_review, review_text
from pgbackup.review import keep, review

review_app = typer.Typer(help="The protocol's weekly and monthly maintenance lists.", no_args_is_help=True)


@review_app.command("weekly")
def weekly(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Backups complete, files whole, logs, restores, sizes; exit 1: something has to be mended."""
    _review(Period.WEEKLY, config, cluster, json=json)


@review_app.command("monthly")
def monthly(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Retention, old backups, procedures, the disaster recovery plan; exit 1: something has to be mended."""
    _review(Period.MONTHLY, config, cluster, json=json)


def _review(period: Period, config: Config, cluster: Cluster, *, json: bool) -> None:
    with running("review", config, cluster, json=json) as (site, name):
        done = review(site, name, period)
        report = ReviewReport(done, contacts=site.settings.contacts)
        path = keep(site.settings, done, html=compose_review(report)[1], text=review_text(report))
    if json:
        items = {item.name: [finding_document(finding) for finding in item.findings] for item in done.items}
        print_json({"cluster": name, "period": period, "report": str(path), "items": items})
    else:
        for item in done.items:
            out.print(item.name, style="bold", markup=False)
            print_findings(item.findings)
        out.print(f"kept as {path}", markup=False)
    if done.failed:
        raise typer.Exit(RefusedError.exit_code)

"""``pgbackup watch``: the findings of the watch for cron and Nagios, without Airflow; nothing is recorded or mailed."""

from __future__ import annotations

import typer

from pgbackup.cli.face import Cluster, Config, Json, failures, open_site
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.errors import RefusedError
from pgbackup.watch import watch


def watch_archive(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Judge the WAL archive, its source and the age of the backups; exit 1: something does not hold."""
    with failures(json=json):
        site = open_site(config)
        found = {name: watch(site, name) for name in ([cluster] if cluster else site.settings.clusters)}
    if json:
        print_json({name: [finding_document(finding) for finding in findings] for name, findings in found.items()})
    else:
        for name, findings in found.items():
            out.print(name, style="bold", markup=False)
            print_findings(findings)
    if not all(finding.ok for findings in found.values() for finding in findings):
        raise typer.Exit(RefusedError.exit_code)

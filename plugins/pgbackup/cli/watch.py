"""``pgbackup watch`` and ``pgbackup metrics``: one look, for cron, Nagios and Prometheus; nothing is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pgbackup.cli.face import Cluster, Config, Json, failures, open_site
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.metrics import exposition
from pgbackup.watch import Watching, examine


def watch_archive(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Judge the WAL archive, its source, the backups and their copies; exit 1: something does not hold."""
    with failures(json=json):
        found = {name: watching.findings for name, watching in _look(config, cluster).items()}
    if json:
        print_json({name: [finding_document(finding) for finding in findings] for name, findings in found.items()})
    else:
        for name, findings in found.items():
            out.print(name, style="bold", markup=False)
            print_findings(findings)
    if not all(finding.ok for findings in found.values() for finding in findings):
        raise typer.Exit(RefusedError.exit_code)


def show_metrics(
    output: Annotated[
        Path | None, typer.Option("--output", help="A file that is replaced as a whole, for node_exporter.")
    ] = None,
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Print what there is to measure in the text format of Prometheus; exit 0 whatever the numbers are."""
    with failures(json=json):
        samples = [one for watching in _look(config, cluster).values() for one in watching.samples]
        if output is not None:
            _replace(output, exposition(samples))
    if json:
        print_json([{"name": one.name, "labels": dict(one.labels), "value": one.value} for one in samples])
    elif output is None:
        typer.echo(exposition(samples), nl=False)


def _look(config: Path | None, cluster: str | None) -> dict[str, Watching]:
    site = open_site(config)
    return {name: examine(site, name) for name in ([cluster] if cluster else site.settings.clusters)}


def _replace(path: Path, text: str) -> None:
    """Write a file that nobody reads half of; raises UnavailableError."""
    beside = path.with_name(f".{path.name}.new")  # node_exporter reads *.prom alone
    try:
        beside.write_text(text, encoding="utf-8")
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        raise UnavailableError(f"cannot write {path}", detail=error.strerror) from None

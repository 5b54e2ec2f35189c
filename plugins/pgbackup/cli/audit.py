"""``pgbackup audit``: the storage audit from a shell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pgbackup.audit import audit, audit_one, audit_text, keep
from pgbackup.cli.face import Cluster, Config, Json, failures, only, open_site
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site
from pgbackup.report.news import audit_news, compose_news, news_text

Repository = Annotated[
    str | None,
    typer.Option("--repository", help="Which repository; default: each, and this machine.", show_default=False),
]


def audit_storage(
    config: Config = None,
    cluster: Cluster = None,
    repository: Repository = None,
    kept: Annotated[bool, typer.Option("--keep", help="Keep the reports, as the DAG does: of one cluster.")] = False,
    json: Json = False,
) -> None:
    """Look after the storage: private, encrypted, whole, all there, nothing else; exit 1: something is to be mended."""
    paths: list[Path] = []
    with failures(json=json):
        site = open_site(config)
        name = only(site, cluster) if kept else cluster
        found = {repository: audit_one(site, repository, name)} if repository else audit(site, name)
        if name and kept:
            paths = [_keep(site, name, place, findings) for place, findings in found.items()]
    if json:
        print_json({name: [_document(finding) for finding in findings] for name, findings in found.items()})
    else:
        for name, findings in found.items():
            out.print(name, style="bold", markup=False)
            print_findings(findings)
        for path in paths:
            out.print(f"kept as {path}", markup=False)
    if any(finding.fails for findings in found.values() for finding in findings):
        raise typer.Exit(RefusedError.exit_code)


def _keep(site: Site, cluster: str, place: str, findings: Sequence[Finding]) -> Path:
    sound = not any(finding.fails for finding in findings)
    text = audit_text(place, findings)
    news = audit_news(site.settings, cluster, place, text, succeeded=sound, run=site.owner)
    return keep(site.settings, cluster, place, site.clock(), html=compose_news(news)[1], text=news_text(news))


def _document(finding: Finding) -> dict[str, Any]:
    return finding_document(finding) | {"severity": None if finding.ok else finding.severity}

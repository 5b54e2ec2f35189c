"""``pgbackup audit``: the storage audit from a shell."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pgbackup.audit import audit, audit_one
from pgbackup.cli.face import Cluster, Config, Json, failures, open_site
from pgbackup.cli.output import finding_document, out, print_findings, print_json
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Finding

Repository = Annotated[
    str | None,
    typer.Option("--repository", help="Which repository; default: each, and this machine.", show_default=False),
]


def audit_storage(
    config: Config = None, cluster: Cluster = None, repository: Repository = None, json: Json = False
) -> None:
    """Look after the storage: private, encrypted, whole, all there, nothing else; exit 1: something is to be mended."""
    with failures(json=json):
        site = open_site(config)
        found = {repository: audit_one(site, repository, cluster)} if repository else audit(site, cluster)
    if json:
        print_json({name: [_document(finding) for finding in findings] for name, findings in found.items()})
    else:
        for name, findings in found.items():
            out.print(name, style="bold", markup=False)
            print_findings(findings)
    if any(finding.fails for findings in found.values() for finding in findings):
        raise typer.Exit(RefusedError.exit_code)


def _document(finding: Finding) -> dict[str, Any]:
    return finding_document(finding) | {"severity": None if finding.ok else finding.severity}

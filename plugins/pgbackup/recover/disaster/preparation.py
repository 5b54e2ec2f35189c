"""Preparation and recovery: the place, the files, the restore itself, beside whatever is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgbackup.domain import findings as named
from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError
from pgbackup.domain.findings import Answer
from pgbackup.domain.incident import Doing, Fact, Incident
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site, Store
from pgbackup.postgres import physical
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover.ahead import Foresight, Request, foresee
from pgbackup.recover.cluster import Recovered, last_manifest, recover_cluster, recovered_server
from pgbackup.recover.control import works_in
from pgbackup.recover.incident import Told, judged
from pgbackup.restore.rebuild import rebuild
from pgbackup.scratch import make_private


def provision(site: Site, cluster: str, request: Request) -> Told:
    """Make the folder that the recovery will be beside, and look again at what may have changed since the plan.

    Raises what foresee() does: the place is taken, the port, not enough space, another machine than was planned for.
    """
    make_private(request.into.parent)
    ahead = foresee(site, cluster, request)
    port = f"port {request.port} is free" if request.port is not None else "no server was asked for"
    return Told(f"{request.into}: {ahead.needs / 1e6:.1f} MB needed, {ahead.free / 1e6:.1f} MB free; {port}")


def prepare_files(site: Site, cluster: str, ahead: Foresight) -> Told:
    """Fill an empty catalog from the repositories, and say what will be fetched; its bytes are checked as it comes.

    A catalog that does not answer is told: the recovery goes on without it.
    """
    try:
        catalog = "" if site.catalog.backups(cluster) else _rebuilt(site)
    except PgBackupError as error:
        catalog = f"; the recovery goes on without a catalog: {error.message}"
    plan = ahead.plan
    return Told(f"{' + '.join((*plan.chain, *plan.bundles))} from {plan.repository}{catalog}")


def _rebuilt(site: Site) -> str:
    read = "; ".join(_read(site, store) for store in site.repositories.values())
    return f"; the catalog was empty, and knows the backups now: {read}"


def _read(site: Site, store: Store) -> str:
    """Fill the catalog from a repository, and say with how many backups; one that is down keeps no other from it."""
    try:
        done = rebuild(site, store)
    except PgBackupError as error:
        return f"none in {store.name}: {error.message}"
    refused = "".join(f", {error.message}: {error.detail}" for error in done.refused)
    return f"{len(done.recorded)} in {store.name}{refused}"


def restore(site: Site, cluster: str, request: Request) -> tuple[Told, Recovered]:
    """Recover into the folder of a request; a try after an interruption goes on in it. No server is started yet."""
    recovered = recover_cluster(
        site, cluster, request.target, into=request.into, timeline=request.timeline, repository=request.repository
    )
    found = recovered.replayed
    newest = max(filter(None, (found.last_commit, found.heartbeat)), default=None)
    facts = {
        Fact.FOLDER: str(recovered.folder),
        Fact.MEASURED: f"{sum(step.seconds for step in recovered.steps):.1f}",
        Fact.PREPARED: ", ".join(found.prepared),
    }
    if newest:
        facts[Fact.RECOVERED_TO] = newest.isoformat()
    detail = f"{recovered.folder}: to {found.lsn}, now timeline {found.timeline}"
    return Told("; ".join((detail, *_times(recovered))), (), facts), recovered


def _times(recovered: Recovered) -> Iterator[str]:
    predicted = {step.name: step.seconds for step in recovered.plan.steps}
    for step in recovered.steps:
        expected = f" ({predicted[step.name]:.1f} s predicted)" if step.name in predicted else ""
        yield f"{step.name} {step.seconds:.1f} s{expected}"


def verify_integrity(site: Site, recovered: Recovered, incident: Incident) -> Told:
    """Read every page of the recovered, stopped server and compare its checksum; see that replay ended cleanly.

    Of a server that runs already, an earlier try's findings stand. Raises RefusedError when there was none.
    """
    manifest = last_manifest(site, recovered.plan)
    server = recovered_server(site, manifest, recovered)
    if works_in(recovered.folder):
        earlier = incident.found(Doing.INTEGRITY)
        if not earlier:
            raise RefusedError(
                f"a server runs in {recovered.folder}, and nobody read its pages before",
                hint=f"stop it: kill -INT $(head -n 1 {recovered.folder / 'postmaster.pid'})",
            )
        return Told("the server runs already: its pages were read before it was started", earlier)
    finding = judged(named.PAGES, lambda: _pages(site, manifest, server, recovered))
    return Told(f"replay ended at {recovered.replayed.lsn}, promoted and stopped cleanly", (finding,))


def _pages(site: Site, manifest: Manifest, server: ThrowAwayServer, recovered: Recovered) -> Answer:
    if not manifest.server.data_checksums:
        return True, "off in the source: enable them with pg_checksums", ""
    try:
        report, _ = site.runner.run(physical.check_pages(server.programs, recovered.folder))
    except ProgramFailed as error:
        if error.by_machine:
            raise
        return False, error.stderr, "recover from another repository, or an earlier backup"
    blocks = re.search(rb"Blocks scanned: +(\d+)", report)
    return True, f"{blocks[1].decode() if blocks else 'all'} pages", ""

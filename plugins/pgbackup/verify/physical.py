"""A physical backup's verification: the steps it takes instead of a dump's, the answers that differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from pgbackup.domain.chain import data_links
from pgbackup.domain.errors import ProgramFailed, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Content, Manifest, Table
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.postgres import physical
from pgbackup.postgres.connection import connect
from pgbackup.postgres.throwaway import ThrowAwayServer, copy_server
from pgbackup.restore.chain import Link, marked_groups, unpack_chain
from pgbackup.restore.compare import Comparison
from pgbackup.restore.fitness import refuse_unfit
from pgbackup.restore.isolated import server_for
from pgbackup.restore.physical import recovering, recovery_settings, refuse_tablespace_creation
from pgbackup.verify.attempt import Attempt

# What a server's last lines say when the machine failed it, or somebody stopped it, in the middle of a replay.
_NOT_THE_BACKUP = re.compile(
    r"No space left on device|out of memory|shared memory|received \w+ shutdown request|"
    r"resource manager with ID \d+ not registered|must be loaded via|could not (access file|load library)"
)

_PREPARED = "prepared"


def lay_out(site: Site, links: Sequence[Link], attempt: Attempt) -> Answer:
    """Unpack the links, compare each one's files with its backup_manifest (pg_verifybackup), combine, add the WAL."""
    manifest = links[-1].manifest
    server = server_for(site, manifest, attempt.server)
    refuse_unfit(manifest, server.programs, site.runner)
    unpack_chain(site, server, links, jobs=site.settings.cluster(manifest.cluster).verify_backup.jobs)
    detail = f"start {links[0].manifest.start_lsn}, WAL to {manifest.end_lsn} without a gap"
    return True, detail if len(links) == 1 else f"{len(links)} links; {detail}", ""


def replay(site: Site, chain: Sequence[Manifest], attempt: Attempt) -> Answer:
    """Replay to each marked point and promote there: the points of different databases each have a server of their own.

    A try after an interrupted one goes on: copies are made before anything is replayed, and a server is prepared once.
    Raises UnfitError for a backup whose rows cannot all be compared: it was not found equal, so it may not count.
    """
    manifest = chain[-1]
    points = tuple(marked_groups(manifest))
    if not points:
        raise _not_comparable(manifest, "the snapshot of a database with rows has no marked point")
    unpacked = server_for(site, manifest, attempt.server)
    start = Lsn.parse(data_links(tuple(chain))[-1].start_lsn or "")
    end = Lsn.parse(manifest.end_lsn or "")
    refuse_tablespace_creation(site.runner, unpacked, manifest.server.timeline, start, end)
    for point in points[:-1]:
        folder = server_at(attempt, manifest, point)
        if not folder.exists():
            copy_server(site.runner, unpacked, folder)
    for point in points:
        _replay_to(site, manifest, attempt, point)
    return True, f"promoted at {some(str(point) for point in points)}", ""


def server_at(attempt: Attempt, manifest: Manifest, point: Lsn) -> Path:
    """Return the folder of the server that was replayed to a marked point; the last one's is the attempt's own."""
    last = max(marked_groups(manifest))
    return attempt.server if point == last else attempt.folder / f"server-{point.position:X}"


def _replay_to(site: Site, manifest: Manifest, attempt: Attempt, point: Lsn) -> None:
    server = server_for(site, manifest, server_at(attempt, manifest, point))
    prepared = server.folder / _PREPARED
    if not prepared.exists():  # one that has promoted already must not be told to recover again
        server.adopt(recovery_settings(site.runner, server, manifest, point))
        prepared.touch(mode=0o600)
    try:
        with recovering(site, server, manifest.cluster, attempt.repository):
            pass
    except UnavailableError as error:
        if _NOT_THE_BACKUP.search(error.detail or ""):
            raise
        raise RefusedError(
            f"recovery does not reach {point}", detail=error.detail, hint="the server's last lines say why"
        ) from None


def check_pages(site: Site, manifest: Manifest, attempt: Attempt) -> Answer:
    """Read every page of the recovered, stopped server and compare its checksum (pg_checksums)."""
    if not manifest.server.data_checksums:
        return True, "off in the source: enable them with pg_checksums", ""
    server = server_for(site, manifest, attempt.server)
    try:
        report, _ = site.runner.run(physical.check_pages(server.programs, server.data))
    except ProgramFailed as error:
        if error.by_machine:
            raise
        return False, error.stderr, "the source's disk or memory is failing: look at its log and its kernel's"
    blocks = re.search(rb"Blocks scanned: +(\d+)", report)
    return True, f"{blocks[1].decode() if blocks else 'all'} pages", ""


def _not_comparable(manifest: Manifest, reason: str) -> UnfitError:
    return UnfitError(
        f"the rows of {manifest.id} cannot all be compared with their source: no verdict",
        detail=reason,
        hint="the full backup of the same run is proved on its own; take another base when less is written",
    )


class PhysicalComparison(Comparison):
    """A physical backup that was replayed to a marked point: the same questions, of which some have other answers.

    Unlogged tables come back empty.
    """

    def contents(self) -> Answer:
        """Compare rows; raises UnfitError where the snapshot and the recovery do not agree on the moment."""
        late = self._committed_too_early()
        if late:
            raise _not_comparable(self._manifest, f"transactions {some(late)} ended between snapshot and marked point")
        return super().contents()

    def _committed_too_early(self) -> list[str]:
        """Return transactions that the snapshot does not see and that the recovered server has as committed."""
        late: list[str] = []
        with connect(self._parameters) as connection:
            for entry in self._manifest.databases:
                running = entry.snapshot.split(":")[2].split(",")
                for xid in filter(None, running):
                    row = connection.execute("SELECT pg_catalog.pg_xact_status(%s::pg_catalog.xid8)", (xid,)).fetchone()
                    if row and row[0] == "committed":
                        late.append(xid)
        return late

    def _wanted(self, table: Table) -> Content | None:
        return Content(rows=0, hash="0") if table.unlogged and table.content else table.content


def comparisons(
    site: Site, manifest: Manifest, attempt: Attempt
) -> Iterator[tuple[ThrowAwayServer, Callable[[ConnectionParameters], Comparison]]]:
    """Yield each replayed server with the comparison of the databases that its marked point proves."""
    settings = site.settings.cluster(manifest.cluster)
    for point, names in marked_groups(manifest).items():
        here = tuple(entry for entry in manifest.databases if entry.name in names)
        part = manifest.model_copy(update={"databases": here})
        server = server_for(site, manifest, server_at(attempt, manifest, point))
        yield server, partial(PhysicalComparison, part, settings)

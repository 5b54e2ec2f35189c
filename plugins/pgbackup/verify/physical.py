"""A physical backup's verification: the steps it takes instead of a dump's, the answers that differ."""

from __future__ import annotations

import re

from pgbackup.domain.errors import RefusedError, UnavailableError, UnfitError
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.manifest import Content, Manifest, Table
from pgbackup.domain.model import ConnectionParameters, Kind
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Cluster
from pgbackup.postgres.connection import connect
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.isolated import server_for
from pgbackup.restore.physical import (
    RECOVERY_TIMEOUT,
    marked_target,
    recovery_settings,
    refuse_tablespace_creation,
    unpack_base,
)
from pgbackup.verify.attempt import Attempt
from pgbackup.verify.compare import Comparison

# What a server's last lines say when the machine failed it, or somebody stopped it, in the middle of a replay.
_NOT_THE_BACKUP = re.compile(r"No space left on device|out of memory|shared memory|received \w+ shutdown request")


def unpack(site: Site, manifest: Manifest, attempt: Attempt) -> Answer:
    """Unpack the base and compare each of its files with the backup_manifest (pg_verifybackup)."""
    server = server_for(site, manifest, attempt.server)
    unpack_base(site.runner, server, attempt.files)
    return True, f"start {manifest.start_lsn}, consistent from {manifest.stop_lsn}", ""


def replay(site: Site, manifest: Manifest, server: ThrowAwayServer) -> Answer:
    """Replay to the marked point and promote.

    Raises UnfitError for a backup whose rows cannot all be compared there: it was not found equal, so it may not count.
    """
    end = marked_target(manifest)
    if end is None:
        raise _not_comparable(manifest, "no snapshot of it has a marked point")
    elsewhere = [
        entry.name
        for entry in manifest.databases
        if entry.marked_lsn != str(end) and any(table.content and table.content.rows for table in entry.tables)
    ]
    if elsewhere:
        raise _not_comparable(manifest, f"these have no marked point, or another one: {some(elsewhere)}")
    refuse_tablespace_creation(site.runner, server, manifest)
    server.adopt(recovery_settings(site.runner, server, manifest, end))
    try:
        with server.running(timeout=RECOVERY_TIMEOUT):
            pass
    except UnavailableError as error:
        if _NOT_THE_BACKUP.search(error.detail or ""):
            raise
        raise RefusedError(
            f"recovery does not reach {end}", detail=error.detail, hint="the server's last lines say why"
        ) from None
    return True, f"promoted at {end}", ""


def _not_comparable(manifest: Manifest, reason: str) -> UnfitError:
    return UnfitError(
        f"the rows of {manifest.id} cannot all be compared with their source: no verdict",
        detail=reason,
        hint="the full backup of the same run is proved on its own; take another base when less is written",
    )


class PhysicalComparison(Comparison):
    """A base backup that was replayed to a marked point: the same questions, of which some have other answers.

    Databases whose snapshot is at another point hold no rows (replay refuses others); unlogged tables come back empty.
    """

    def __init__(
        self,
        manifest: Manifest,
        settings: Cluster,
        parameters: ConnectionParameters,
        violated: frozenset[tuple[str, str]],
    ) -> None:
        target = str(marked_target(manifest))
        here = tuple(entry for entry in manifest.databases if entry.marked_lsn == target)
        super().__init__(manifest.model_copy(update={"databases": here}), settings, parameters, violated)

    def contents(self) -> Answer:
        """Compare rows; raises UnfitError where the snapshot and the recovery do not agree on the moment."""
        late = self._committed_too_early()
        if late:
            raise _not_comparable(self._manifest, f"transactions {some(late)} ended between snapshot and marked point")
        return super().contents()

    def checksums(self) -> Answer:
        """Pages carry checksums, and every one was read: by pg_basebackup on the way, by pg_amcheck here."""
        on = self._manifest.server.data_checksums
        return True, "on" if on else "off in the source: enable them with pg_checksums", ""

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


def comparison_of(
    manifest: Manifest,
    settings: Cluster,
    parameters: ConnectionParameters,
    violated: frozenset[tuple[str, str]],
) -> Comparison:
    """Return the comparison that fits a backup's kind."""
    kind = Comparison if manifest.kind is Kind.FULL else PhysicalComparison
    return kind(manifest, settings, parameters, violated)

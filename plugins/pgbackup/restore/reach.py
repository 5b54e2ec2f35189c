"""What one repository holds for recoveries, from its own listing: no catalog is needed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import blames_capture
from pgbackup.domain.ids import BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Kind, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.survey import Holdings, Link
from pgbackup.domain.wal import Sealed, Segment, stretches
from pgbackup.restore.archive import list_archive, read_histories, read_sidecar
from pgbackup.restore.fetch import describe_copy
from pgbackup.restore.rebuild import attested, committed

log = logging.getLogger(__name__)

_USUAL_SEGMENT = 16 << 20
_COMPRESSION = 3
"""Times that the tar of a block incremental grows when it is unpacked; measured: 2.7 to 3."""


def read_holdings(site: Site, store: Store, cluster: str) -> Holdings:
    """Gather what a plan is made from: manifests, verdicts and the WAL archive of the newest backup's system.

    Reads the sidecars of segments only as far as the plan asks for them. Raises UnfitError when the archive's history
    files cannot be decrypted here.
    """
    links = tuple(_links(site, store, cluster))
    newest = max(links, key=lambda link: link[0].started_at, default=None)
    system = newest[0].server.system_identifier if newest else ""
    listing = list_archive(store, cluster, system)
    # Of two contents under one name nobody knows which is right: neither is used.
    segments = [
        segment for segment, archived in listing.segments.items() if archived.name not in set(listing.conflicts)
    ]

    @functools.cache
    def sidecar(segment: Segment) -> Sealed:
        return read_sidecar(store, listing.segments[segment])

    return Holdings(
        cluster=cluster,
        system_identifier=system,
        repository=store.name,
        segment_size=listing.segment_size or _USUAL_SEGMENT,
        links=tuple(_link(manifest, verdict) for manifest, verdict in links if _is_of(manifest, system)),
        stretches=stretches(segments),
        histories=read_histories(site, store, listing),
        sidecar=sidecar,
    )


def _is_of(manifest: Manifest, system: str) -> bool:
    return manifest.server.system_identifier == system


def _links(site: Site, store: Store, cluster: str) -> Iterator[tuple[Manifest, Verdict | None]]:
    for backup_id in committed(store):
        if backup_id.cluster != cluster or backup_id.kind is Kind.FULL:
            continue
        try:
            manifest = describe_copy(site, store, backup_id).manifest
        except RefusedError as error:
            log.warning("%s is not used: %s", backup_id, error)
            continue
        yield manifest, proof_of(store, backup_id)


def verdict_of(store: Store, backup_id: BackupId) -> Verdict | None:
    """Return the newest verdict on the copy in this repository."""
    concluded = [
        (verification.finished_at, verification.verdict)
        for verification in attested(store, backup_id)
        if verification.repository == store.name and verification.finished_at and verification.verdict
    ]
    return max(concluded)[1] if concluded else None


def proof_of(store: Store, backup_id: BackupId) -> Verdict | None:
    """Return the verdict that a recovery from a copy goes by: the newest on it, else that on what was captured.

    Whoever judged another copy judged these bytes, too: they are compared with their checksums as they come.
    """
    if own := verdict_of(store, backup_id):
        return own
    judged = tuple(attested(store, backup_id))
    if any(one.verdict is Verdict.VERIFIED for one in judged):
        return Verdict.VERIFIED
    return Verdict.REJECTED if any(map(blames_capture, judged)) else None


def _link(manifest: Manifest, verdict: Verdict | None) -> Link:
    xmax = [int(entry.snapshot.split(":")[1]) for entry in manifest.databases]
    unlogged = [
        f"{entry.name}.{table.schema_name}.{table.name}"
        for entry in manifest.databases
        for table in entry.tables
        if table.unlogged
    ]
    whole = sum(entry.bytes for entry in manifest.databases)
    return Link(
        id=manifest.id,
        method=manifest.method,
        parent=manifest.parent,
        timeline=manifest.server.timeline,
        start=Lsn.parse(manifest.start_lsn or ""),
        stop=Lsn.parse(manifest.stop_lsn or ""),
        end=Lsn.parse(manifest.end_lsn or ""),
        moment=manifest.backup_time,
        next_xid=min(xmax, default=None),
        stored_bytes=manifest.stored_bytes,
        data_bytes=whole if manifest.kind is Kind.BASE else manifest.stored_bytes * _COMPRESSION,
        unlogged_tables=tuple(unlogged),
        verdict=verdict,
    )

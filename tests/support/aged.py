"""Backups and WAL of long ago, as small as they can be: a repository and a catalog take them for real ones."""

from __future__ import annotations

import os
from datetime import datetime
from hashlib import sha256

from pgbackup.domain.attestation import Attestation, seal
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.manifest import File
from pgbackup.domain.model import CopyState, Kind, Verdict, Verification
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.sums import format_sums
from pgbackup.domain.wal import Sealed, Segment
from pgbackup.store import LocalStore
from tests.support.manifests import manifest

SIZE = 1 << 20
DATA = b"x" * 1000


def put(store: Store, key: str, data: bytes) -> None:
    with store.create(key) as sink:
        sink.write(data)


def stored(
    site: Site,
    moment: datetime,
    kind: Kind = Kind.FULL,
    verdict: Verdict | None = Verdict.VERIFIED,
    parent: str | None = None,
    *,
    day: int = 0,
    cluster: str = "streamflix",
    database: str = "app",
    repositories: tuple[str, ...] = ("local",),
) -> str:
    """Store a backup, and tell the catalog; a physical one begins in the segment ``day``."""
    backup_id = BackupId.at(cluster, moment, kind)
    name = "d.dump" if kind is Kind.FULL else "base.tar.zst"
    digest = sha256(DATA).hexdigest()
    file = File(name=name, stored_bytes=1000, stored_sha256=digest, plain_bytes=1000, plain_sha256=digest)
    changes: dict[str, object] = {}
    if kind is not Kind.FULL:
        positions = [f"0/{day * SIZE + more:X}" for more in (0, 10, 20)]
        changes = dict(zip(("start_lsn", "stop_lsn", "end_lsn"), positions, strict=True))
        changes |= {"method": "block" if kind is Kind.INCREMENTAL else None, "parent": parent}
    made = manifest(
        cluster=cluster, moment=moment, id=str(backup_id), kind=kind, files=(file,), encrypted=False, **changes
    )
    entry = made.databases[0].model_copy(
        update={"name": database, "owner": "postgres", "file": name if kind is Kind.FULL else None}
    )
    made = made.model_copy(update={"databases": (entry,)})
    for repository in repositories:
        store = site.repositories[repository]
        put(store, backup_id.key(name), DATA)
        put(store, backup_id.key(MANIFEST), made.to_json())
        put(store, backup_id.key(SUMS), format_sums({name: digest, MANIFEST: sha256(made.to_json()).hexdigest()}))
        verifications = [Verification(made.id, repository, 1, moment, moment, verdict)] if verdict else []
        for one in verifications:
            sealed_as, text = seal(Attestation.of(one))
            put(store, backup_id.key(sealed_as), text)
        site.catalog.register(
            made, repository=repository, copy=CopyState.STORED, verifications=verifications, now=moment
        )
    return made.id


def archived(store: Store, day: int, moment: datetime, cluster: str = "streamflix") -> Segment:
    """Archive the segment ``day``, in a folder as of a moment; its data has another key than its description."""
    segment = Segment(1, day, SIZE)
    sealed = Sealed(
        cluster=cluster,
        name=segment.name,
        system_identifier="7",
        timeline=1,
        segment_size=SIZE,
        start_lsn=str(segment.start),
        end_lsn=str(segment.end),
        plain_bytes=SIZE,
        plain_sha256=sha256(segment.name.encode()).hexdigest(),
        stored_bytes=4,
        stored_sha256="b" * 64,
        encrypted=False,
        sealed_at=moment,
    )
    for key, data in ((sealed.data_key, b"data"), (sealed.sidecar_key, sealed.to_json())):
        put(store, key, data)
        if isinstance(store, LocalStore):
            os.utime(store.root / key, (moment.timestamp(), moment.timestamp()))
    return segment

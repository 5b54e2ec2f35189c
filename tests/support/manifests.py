"""A manifest with nothing special in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Content, Database, File, Manifest, Server, Table
from pgbackup.domain.model import Kind

MOMENT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)


def manifest(cluster: str = "streamflix", moment: datetime = MOMENT, **changes: object) -> Manifest:
    table = Table(
        schema_name="public", name="t", kind="r", unlogged=False, content=Content(rows=3, hash="-12345678901234567890")
    )
    database = Database(
        name="d\u00e9 'b",
        file="d.dump.gpg",
        format="custom",
        owner="o",
        encoding="UTF8",
        locale_provider="c",
        collate="C",
        ctype="C",
        locale=None,
        collation_version=None,
        actual_collation_version=None,
        bytes=8_000_000,
        snapshot="10:20:12",
        snapshot_lsn="0/1",
        tables=(table,),
        large_objects=None,
        sequences=(),
        foreign_keys=(),
        materialized_views=(),
        extensions=(),
        objects={},
        invalid_indexes=(),
        settings=(),
    )
    file = File(name="d.dump.gpg", stored_bytes=100, stored_sha256="a" * 64, plain_bytes=90, plain_sha256="b" * 64)
    server = Server(
        system_identifier="7", version=180006, version_text="18.6", timeline=1, data_checksums=True, block_size=8192
    )
    fields = {
        "id": str(BackupId.at(cluster, moment, Kind.FULL)),
        "kind": Kind.FULL,
        "cluster": cluster,
        "server": server,
        "client_version": "18.6",
        "started_at": moment,
        "finished_at": moment + timedelta(minutes=3),
        "backup_time": moment + timedelta(minutes=1),
        "fingerprints": True,
        "encrypted": True,
        "recipients": ("F" * 40,),
        "roles": ("backup",),
        "bootstrap_superuser": "postgres",
        "databases": (database,),
        "files": (file,),
        "not_included": (),
    }
    return Manifest.model_validate({**fields, **changes})

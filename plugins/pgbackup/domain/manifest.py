"""manifest.json: what a backup is and what its restored databases must equal. Versioned; strict when read."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Kind

HASH_VERSION = 1
"""Version of the fingerprint's expression (postgres/sql/content.sql); hashes of different versions don't compare."""
ADOPTED = "adopted"
"""The method of a full backup that was made of a dump of somebody else's: nothing is known of its source."""
WITHOUT_GLOBALS = "globals: its roles are those that the dump names, without passwords, attributes and memberships"
"""What is not in an adopted backup whose dump came without its globals."""


class Entry(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Entry):
    """One stored file: before (plain) and after (stored) compression and encryption of ours."""

    name: str
    stored_bytes: int
    stored_sha256: str
    plain_bytes: int
    plain_sha256: str


class Content(Entry):
    """A fingerprint: rows and the order-independent sum of their hashes; None where it was not computed."""

    rows: int
    hash: str


class Table(Entry):
    """A table of the snapshot. ``kind`` is pg_class.relkind; ``content`` is None for excluded tables.

    An unlogged table is in a dump, and empty in a physical backup.
    """

    schema_name: str
    name: str
    kind: str
    unlogged: bool
    content: Content | None


class Sequence(Entry):
    """A sequence's last value, read before the snapshot: the restored one may not be behind."""

    schema_name: str
    name: str
    last_value: int | None
    increment: int


class ForeignKey(Entry):
    """A foreign key and whether the source vouches for it (NOT VALID ones it does not)."""

    schema_name: str
    table: str
    name: str
    validated: bool


class MaterializedView(Entry):
    """A materialized view; its content is not compared (restore refreshes it), that it is populated is."""

    schema_name: str
    name: str
    populated: bool


class Extension(Entry):
    """An installed extension."""

    name: str
    version: str


class ObjectClass(Entry):
    """All objects of one class: how many, and a hash over their identities and verbatim definitions."""

    count: int
    hash: str


class Database(Entry):
    """One database at its snapshot; ``file`` and ``format`` are those of its dump, None in a physical backup."""

    name: str
    file: str | None
    format: Literal["custom", "directory"] | None
    owner: str
    encoding: str
    locale_provider: str
    collate: str
    ctype: str
    locale: str | None
    collation_version: str | None
    actual_collation_version: str | None
    bytes: int
    snapshot: str
    snapshot_lsn: str
    marked_lsn: str | None = None
    tables: tuple[Table, ...]
    large_objects: Content | None
    sequences: tuple[Sequence, ...]
    foreign_keys: tuple[ForeignKey, ...]
    materialized_views: tuple[MaterializedView, ...]
    extensions: tuple[Extension, ...]
    objects: dict[str, ObjectClass]
    invalid_indexes: tuple[str, ...]
    settings: tuple[str, ...]


class Server(Entry):
    """The source server."""

    system_identifier: str
    version: int
    version_text: str
    timeline: int
    data_checksums: bool
    block_size: int
    shared_preload_libraries: tuple[str, ...] = ()


class Manifest(Entry):
    """The whole document. Written after the data and before SHA256SUMS, the commit point.

    A physical backup is consistent from ``stop_lsn`` on; its own WAL reaches from ``start_lsn`` to ``end_lsn``.
    """

    format: Literal[1] = 1
    id: str
    kind: Kind
    method: str | None = None
    parent: str | None = None
    start_lsn: str | None = None
    stop_lsn: str | None = None
    end_lsn: str | None = None
    cluster: str
    server: Server
    client_version: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    backup_time: AwareDatetime
    hash_version: int = HASH_VERSION
    fingerprints: bool
    encrypted: bool
    recipients: tuple[str, ...]
    roles: tuple[str, ...]
    bootstrap_superuser: str
    databases: tuple[Database, ...]
    files: tuple[File, ...]
    not_included: tuple[str, ...]

    @property
    def adopted(self) -> bool:
        """It was made of a dump of somebody else's."""
        return self.method == ADOPTED

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored data files."""
        return sum(file.stored_bytes for file in self.files)

    def database(self, name: str) -> Database:
        """Return a database's entry; raises RefusedError when the backup does not hold it."""
        for entry in self.databases:
            if entry.name == name:
                return entry
        raise RefusedError(
            f"backup {self.id} does not hold database {name!r}",
            detail="it holds " + ", ".join(repr(entry.name) for entry in self.databases),
        )

    def file(self, name: str) -> File:
        """Return a file's entry; raises RefusedError when there is none."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise RefusedError(f"the manifest of {self.id} does not list {name!r}")

    def globals(self) -> File:
        """Return the entry of the roles and tablespaces; raises RefusedError for a physical backup."""
        found = next((file for file in self.files if file.name.startswith("globals.sql")), None)
        if found is None:
            raise RefusedError(f"{self.id} holds no globals", hint="it is a physical backup")
        return found

    def dump(self, database: Database) -> File:
        """Return the entry of a database's dump; raises RefusedError for a physical backup."""
        if database.file is None:
            raise RefusedError(f"{self.id} holds no dump of {database.name!r}", hint="it is a physical backup")
        return self.file(database.file)

    def to_json(self) -> bytes:
        """Serialize for the repository."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def parse_manifest(data: bytes, *, source: str) -> Manifest:
    """Read a stored manifest; raises RefusedError when it is damaged or of a format that this version cannot read."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RefusedError(
            f"{source} is not a manifest that this version reads",
            detail=f"{place}: {first['msg']}" if place else first["msg"],
            hint="it is damaged, or was written by a newer version",
        ) from None

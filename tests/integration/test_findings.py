"""Each finding of a verification, seen to fail: what differs from the source is rejected, and named."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.forgery import folder_of, manifest_of, put_manifest
from tests.support.site import make_site, with_settings
from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain import findings as named
from pgbackup.domain.manifest import (
    Content,
    Database,
    Extension,
    ForeignKey,
    Manifest,
    MaterializedView,
    Sequence,
    Table,
)
from pgbackup.domain.model import Finding, State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.postgres.connection import Connection, connect
from pgbackup.restore.isolated import server_for
from pgbackup.verify import Attempt, check_contents, check_files, check_restore, open_attempt, verify

CLUSTER = {"exclude_databases": ["postgres"]}


@dataclass(frozen=True)
class Restored:
    """A library that was restored for verification, ready to be compared."""

    site: Site
    attempt: Attempt
    manifest: Manifest

    def compare(self, **verify_backup: Any) -> dict[str, Finding]:
        site = self.site
        if verify_backup:
            cluster = site.settings.cluster("streamflix")
            document = {**cluster.verify_backup.model_dump(), **verify_backup}
            site = with_settings(site, verify_backup=type(cluster.verify_backup).model_validate(document))
        return {finding.name: finding for finding in check_contents(site, self.attempt)}

    @contextlib.contextmanager
    def running(self) -> Iterator[Connection]:
        """Start the restored server and connect to the library behind the verification's back."""
        server = server_for(self.site, self.manifest, self.attempt.server)
        with server.running() as parameters, connect(parameters, "library", pinned=False) as connection:
            yield connection


def restore(folder: Path, library: Source, dsn: str) -> Restored:
    site = make_site(folder, library, dsn, None, **CLUSTER)
    manifest = capture_full(site, "streamflix")
    attempt = open_attempt(site, manifest.id, "local")
    assert all(finding.ok for finding in check_files(site, attempt))
    assert all(finding.ok for finding in check_restore(site, attempt))
    return Restored(site, attempt, manifest)


@pytest.fixture(scope="module")
def restored(library: Source, server: Source) -> Iterator[Restored]:
    server.execute("CREATE DATABASE catalog_of_findings")
    dsn = f"host={server.folder} port={server.port} user=postgres dbname=catalog_of_findings"
    with tempfile.TemporaryDirectory() as folder:
        yield restore(Path(folder), library, dsn)
    server.execute("DROP DATABASE catalog_of_findings WITH (FORCE)")


def test_untouched_everything_holds(restored: Restored) -> None:
    assert [finding for finding in restored.compare().values() if not finding.ok] == []


# ------------------------------------------------------------- the manifest tells of something that was not restored


def table(database: Database, name: str, **changes: object) -> Database:
    tables = tuple(one.model_copy(update=changes) if one.name == name else one for one in database.tables)
    return database.model_copy(update={"tables": tables})


def more(field: str, entry: object) -> Callable[[Database], Database]:
    return lambda database: database.model_copy(update={field: (*getattr(database, field), entry)})


def higher(database: Database) -> Database:
    sequences = tuple(one.model_copy(update={"last_value": 10**6}) for one in database.sequences)
    return database.model_copy(update={"sequences": sequences})


def other_objects(database: Database) -> Database:
    triggers = database.objects["triggers"]
    changed = {**database.objects, "triggers": triggers.model_copy(update={"count": triggers.count + 1})}
    return database.model_copy(update={"objects": changed})


GONE = Table(schema_name="stock", name="gone", kind="r", unlogged=False, content=None)
FORGED: list[tuple[str, str, Callable[[Database], Database]]] = [
    (named.TABLES, "library: stock.gone is missing", more("tables", GONE)),
    (
        named.TABLES,
        "library: public.book is not the source's",
        lambda database: database.model_copy(update={"tables": database.tables[1:]}),
    ),
    (
        named.CONTENT,
        "library: public.book: 4000 rows, but their content differs from the source's",
        lambda database: table(database, "book", content=Content(rows=4000, hash="1")),
    ),
    (
        named.CONTENT,
        "library: public.book: 4000 rows, the source had 4001",
        lambda database: table(database, "book", content=Content(rows=4001, hash="1")),
    ),
    (
        named.CONTENT,
        "library: stock.gone: is missing",
        more("tables", GONE.model_copy(update={"content": Content(rows=0, hash="0")})),
    ),
    (
        named.LARGE_OBJECTS,
        "library: 1 rows, but their content differs from the source's",
        lambda database: database.model_copy(update={"large_objects": Content(rows=1, hash="1")}),
    ),
    (
        named.LARGE_OBJECTS,
        "library: 1 rows, the source had 2",
        lambda database: database.model_copy(update={"large_objects": Content(rows=2, hash="1")}),
    ),
    (named.OBJECTS, "library: triggers differ (2 in the source, 1 restored)", other_objects),
    (
        named.FOREIGN_KEYS,
        "library: gone on public.book does not hold",
        more("foreign_keys", ForeignKey(schema_name="public", table="book", name="gone", validated=True)),
    ),
    (named.SEQUENCES, "library: public.book_book_id_seq is at 4000, the source was at 1000000", higher),
    (
        named.SEQUENCES,
        "library: public.gone is at None, the source was at 3",
        more("sequences", Sequence(schema_name="public", name="gone", last_value=3, increment=1)),
    ),
    (named.EXTENSIONS, "library: pg_gone", more("extensions", Extension(name="pg_gone", version="1"))),
    (
        named.MATERIALIZED_VIEWS,
        "library: public.gone",
        more("materialized_views", MaterializedView(schema_name="public", name="gone", populated=True)),
    ),
]


@pytest.mark.parametrize(("finding", "detail", "forge"), FORGED, ids=[detail for _, detail, _ in FORGED])
def test_what_differs_from_the_manifest_is_named(
    restored: Restored, finding: str, detail: str, forge: Callable[[Database], Database]
) -> None:
    folder = folder_of(restored.site, restored.manifest.id)
    databases = tuple(forge(database) for database in restored.manifest.databases)
    put_manifest(folder, restored.manifest.model_copy(update={"databases": databases}))
    try:
        found = restored.compare()[finding]
    finally:
        put_manifest(folder, restored.manifest)
    assert not found.ok
    assert detail in found.detail
    assert found.hint


def test_a_missing_role_is_named(restored: Restored) -> None:
    folder = folder_of(restored.site, restored.manifest.id)
    put_manifest(folder, restored.manifest.model_copy(update={"roles": (*restored.manifest.roles, "gone")}))
    try:
        found = restored.compare()[named.ROLES]
    finally:
        put_manifest(folder, restored.manifest)
    assert (found.ok, found.detail) == (False, "gone")


# ------------------------------------------------------------------------ what was restored is changed behind our back


def test_what_was_changed_after_the_restore_is_named(tmp_path: Path, library: Source, catalog_dsn: str) -> None:
    spoilt = restore(tmp_path, library, catalog_dsn)
    with spoilt.running() as connection:
        connection.execute("UPDATE stock.shelf SET room = 'ROOM 7' WHERE shelf_id = 7")
        connection.execute("ALTER TABLE book DROP CONSTRAINT book_shelf_id_fkey")
        connection.execute("SELECT setval('book_book_id_seq', 3999)")
        connection.execute("SELECT lo_put(500000, 5, 'X')")
        connection.execute("REFRESH MATERIALIZED VIEW by_shelf WITH NO DATA")
        connection.execute("DROP FUNCTION lend")
        connection.execute("DELETE FROM book WHERE book_id = 4000")
        connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'book_title'::regclass")
    found = spoilt.compare()
    assert {name: finding.detail for name, finding in found.items() if not finding.ok} == {
        named.CONTENT: (
            "library: public.book: 3999 rows, the source had 4000, "
            "library: stock.shelf: 20 rows, but their content differs from the source's"
        ),
        named.LARGE_OBJECTS: "library: 1 rows, but their content differs from the source's",
        named.OBJECTS: (
            "library: constraints differ (5 in the source, 4 restored), "
            "library: functions differ (3 in the source, 2 restored)"
        ),
        named.FOREIGN_KEYS: "library: book_shelf_id_fkey on public.book does not hold",
        named.INDEXES: "library: public.book_title is invalid",
        named.SEQUENCES: "library: public.book_book_id_seq is at 3999, the source was at 4000",
        named.MATERIALIZED_VIEWS: "library: public.by_shelf",
    }


@pytest.mark.parametrize(
    ("relation", "page", "finding"),
    [("book_title", 1, named.INDEXES), ("book", 3, named.CONTENT), ("book_pkey", 2, named.INDEXES)],
    ids=["index", "table", "primary key"],
)
def test_a_damaged_page_is_named(
    tmp_path: Path, library: Source, catalog_dsn: str, relation: str, page: int, finding: str
) -> None:
    spoilt = restore(tmp_path, library, catalog_dsn)
    with spoilt.running() as connection:
        row = connection.execute("SELECT pg_relation_filepath(%s::regclass)", (relation,)).fetchone()
        assert row is not None
        connection.execute("CHECKPOINT")
    path = spoilt.attempt.server / "data" / row[0]
    with path.open("r+b") as file:
        file.seek(8192 * page + 4000)
        file.write(b"\xff" * 2000)
    found = spoilt.compare()
    assert not found[finding].ok
    assert f"public.{relation}" in found[finding].detail


# --------------------------------------------------------------------------------------------------- the application


@pytest.mark.parametrize(
    ("settings", "finding", "detail"),
    [
        ({"application_role": "nobody"}, named.APPLICATION, "nobody may connect to no database"),
        ({"application_role": "streamflix_owner"}, named.APPLICATION, "is not permitted to log in"),
        ({"queries": [{"database": "library", "sql": "SELECT gone FROM book"}]}, named.QUERIES, "gone"),
        (
            {
                "application_role": "readonly",
                "queries": [{"database": "library", "sql": "SELECT title FROM public.book"}],
            },
            named.QUERIES,
            "permission denied",
        ),
        (
            {"queries": [{"database": "library", "sql": "SELECT pg_sleep(0.02)", "within": "0.01s"}]},
            named.QUERIES,
            "SELECT pg_sleep(0.02): 0.0 s, allowed 0.0 s",
        ),
    ],
)
def test_an_application_that_could_not_work_is_a_finding(
    restored: Restored, settings: dict[str, Any], finding: str, detail: str
) -> None:
    found = restored.compare(**settings)[finding]
    assert not found.ok
    assert detail in found.detail
    assert found.hint


def test_an_application_that_could_work_is_none(restored: Restored) -> None:
    query = {"database": "library", "sql": "SELECT title FROM public.book WHERE book_id = 1"}
    found = restored.compare(application_role="app", queries=[query])
    assert (found[named.APPLICATION].ok, found[named.QUERIES].ok) == (True, True)


# ----------------------------------------------------------------------------------------------- the whole, concluded


def test_a_backup_that_differs_is_rejected_everywhere(library: Source, tmp_path: Path, catalog_dsn: str) -> None:
    site = make_site(tmp_path, library, catalog_dsn, None, **CLUSTER)
    manifest = capture_full(site, "streamflix")
    folder = folder_of(site, manifest.id)
    forged = tuple(table(database, "book", content=Content(rows=4000, hash="1")) for database in manifest.databases)
    put_manifest(folder, manifest.model_copy(update={"databases": forged}))
    verification = verify(site, manifest.id, "local")
    assert verification.verdict is Verdict.REJECTED
    assert verification.reason.startswith(f"{named.CONTENT}: library: public.book: 4000 rows")
    backup = site.catalog.backup(manifest.id)
    assert backup is not None
    assert backup.state is State.REJECTED
    assert [path.name for path in (folder / "attest").iterdir()] != []
    assert manifest_of(folder).id == manifest.id


def test_a_database_whose_own_definitions_cannot_be_made_again_is_rejected(catalog_dsn: str, tmp_path: Path) -> None:
    """The classic: a check by a function that works only with the search_path of the day."""
    source = Source()
    try:
        source.make_roles()
        source.execute("CREATE DATABASE fragile")
        source.execute(
            "CREATE TABLE word (w text); INSERT INTO word VALUES ('x');"
            " CREATE FUNCTION known(text) RETURNS boolean LANGUAGE sql"
            " AS 'SELECT EXISTS (SELECT FROM word WHERE w = $1)';"
            " CREATE TABLE verse (v text CHECK (known(v))); INSERT INTO verse VALUES ('x')",
            "fragile",
        )
        site = make_site(tmp_path, source, catalog_dsn, None, **CLUSTER)
        verification = verify(site, capture_full(site, "streamflix").id, "local")
    finally:
        source.remove()
    assert verification.verdict is Verdict.REJECTED
    assert verification.reason.startswith(f"{named.RESTORE}: fragile: ")
    assert 'relation "word" does not exist' in verification.reason


def test_what_informs_rejects_nothing(restored: Restored) -> None:
    folder = folder_of(restored.site, restored.manifest.id)
    server = restored.manifest.server.model_copy(update={"data_checksums": False})
    older = {"collation_version": "2.31", "actual_collation_version": "2.36"}
    databases = tuple(database.model_copy(update=older) for database in restored.manifest.databases)
    put_manifest(folder, restored.manifest.model_copy(update={"server": server, "databases": databases}))
    try:
        found = restored.compare()
    finally:
        put_manifest(folder, restored.manifest)
    assert all(finding.ok for finding in found.values())
    assert "off in the source" in found[named.CHECKSUMS].detail
    assert "recorded 2.31, actual 2.36" in found[named.COLLATIONS].detail

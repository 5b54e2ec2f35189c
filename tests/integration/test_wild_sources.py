"""One server full of what nobody plans for, backed up and verified: every database of it comes back as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support import wild
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain import findings as named
from pgbackup.domain.ids import encode_database
from pgbackup.domain.manifest import Content, Manifest
from pgbackup.domain.model import Verdict, Verification
from pgbackup.verify import verify

DATABASES = (*wild.FEATURES, *wild.DATABASE_NAMES, "names")


@dataclass(frozen=True)
class Proved:
    """The wild server's backup and its verification."""

    manifest: Manifest
    verification: Verification
    tablespace: Path
    files_before: frozenset[Path]

    def detail(self, finding: str) -> str:
        return next(found.detail for found in self.verification.findings if found.name == finding)

    def content(self, database: str, table: str) -> Content | None:
        return next(found.content for found in self.manifest.database(database).tables if found.name == table)


def populate(source: Source, place: Path) -> None:
    source.make_roles()
    place.mkdir()
    source.execute(f"""CREATE TABLESPACE "other; place" LOCATION '{place}'""")
    source.execute("""GRANT CREATE ON TABLESPACE "other; place" TO app""")
    source.execute("""COMMENT ON TABLESPACE "other; place" IS 'it''s; far'""")
    source.execute("CREATE DATABASE closed ALLOW_CONNECTIONS false")
    source.execute("CREATE DATABASE mould IS_TEMPLATE true")
    with source.connect("postgres") as connection:
        for name in DATABASES:
            connection.execute(wild.create(name))
    for name, statements in wild.FEATURES.items():
        with source.connect(name) as connection:
            for statement in statements.split(";\n"):
                if statement.strip():
                    connection.execute(statement.encode())
    with source.connect("names") as connection:
        for name in wild.NAMES:
            for composed in wild.everything_named(name):
                connection.execute(composed)


@pytest.fixture(scope="module")
def proved(key: KeyPair) -> Iterator[Proved]:
    source, outside = Source(), Source()
    place = source.folder / "other place"
    with tempfile.TemporaryDirectory() as folder:
        try:
            populate(source, place)
            outside.execute("CREATE DATABASE catalog")
            dsn = f"host={outside.folder} port={outside.port} user=postgres dbname=catalog"
            site = make_site(Path(folder), source, dsn, key, exclude_databases=["postgres"])
            with source.connect("unlogged") as session, source.connect("cycles") as other:
                session.execute("CREATE TEMP TABLE of_a_session AS SELECT 1 AS a")
                other.execute("BEGIN; INSERT INTO tree VALUES (3, 1); PREPARE TRANSACTION 'undecided'")
                manifest = capture_full(site, "streamflix")
                before = frozenset(place.rglob("*"))
                yield Proved(manifest, verify(site, manifest.id, "local"), place, before)
        finally:
            source.remove()
            outside.remove()


def test_all_of_it_is_verified(proved: Proved) -> None:
    for finding in proved.verification.findings:
        assert finding.ok, f"{finding.name}: {finding.detail}"
    assert proved.verification.verdict is Verdict.VERIFIED


def test_every_database_is_in_the_backup_under_a_file_name_of_its_own(proved: Proved) -> None:
    files = {database.name: database.file for database in proved.manifest.databases}
    assert files == {name: f"{encode_database(name)}.dump.gpg" for name in DATABASES}
    assert len(set(files.values())) == len(files)
    assert all(proved.manifest.file(file).plain_bytes for file in files.values())


def test_no_name_was_run_by_a_shell(proved: Proved) -> None:
    assert proved.manifest.databases
    assert not wild.PWNED.exists()


def test_a_foreign_key_that_the_source_itself_violates_is_named_and_rejects_nothing(proved: Proved) -> None:
    assert proved.detail(named.FOREIGN_KEYS).endswith(
        """violated by the source's own rows: violated: broken "word" here"""
    )


def test_a_foreign_key_that_was_never_validated_is_no_promise(proved: Proved) -> None:
    keys = {key.name: key.validated for key in proved.manifest.database("not valid").foreign_keys}
    assert keys == {"dangling": False}


def test_rows_without_columns_and_rows_of_unlogged_tables_are_in_it(proved: Proved) -> None:
    counts = [
        proved.content("without columns", "bare"),
        proved.content("without columns", "t"),
        proved.content("unlogged", "fast"),
    ]
    assert [content.rows if content else None for content in counts] == [7, 2, 50]


def test_what_row_security_hides_is_in_it(proved: Proved) -> None:
    content = proved.content("row security", "secret")
    assert content is not None
    assert content.rows == 2


def test_neither_temporary_tables_nor_undecided_rows_are_in_it(proved: Proved) -> None:
    assert [table.name for table in proved.manifest.database("unlogged").tables] == ["fast"]
    content = proved.content("cycles", "tree")
    assert content is not None
    assert content.rows == 2


def test_what_is_not_in_it_is_said_and_no_password_with_it(proved: Proved) -> None:
    notes = "\n".join(proved.manifest.not_included)
    for note in ("template databases", "subscription sub", "user mapping for app on server far", "far_away"):
        assert note in notes
    assert b"never to be seen" not in proved.manifest.to_json()


def test_settings_of_databases_and_of_roles_in_them_are_recorded(proved: Proved) -> None:
    settings = proved.manifest.database("settings").settings
    assert "app: work_mem=7MB" in settings
    assert """app.word=it's "x"\\""" in settings


def test_verification_writes_nothing_into_production_s_tablespace(proved: Proved) -> None:
    assert frozenset(proved.tablespace.rglob("*")) >= proved.files_before
    assert len(list(proved.tablespace.iterdir())) == 1

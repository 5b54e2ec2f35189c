"""A physical backup gets no verdict where it cannot be judged: what this machine has not is not the backup's fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.forgery import folder_of, put_manifest
from tests.support.source import Source

from pgbackup.capture import capture_night
from pgbackup.domain.errors import UnfitError
from pgbackup.domain.manifest import Extension, Manifest
from pgbackup.domain.model import State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.postgres.programs import Programs
from pgbackup.restore.fitness import refuse_unfit
from pgbackup.verify import verify

# An index over a text column whose order is turned round behind its back, as another glibc does it.
TURNED = """
CREATE FUNCTION compare(text, text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT bttextcmp($1, $2)';
CREATE OPERATOR CLASS fickle FOR TYPE text USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 compare(text, text);
CREATE TABLE word (word text COLLATE pg_c_utf8);
INSERT INTO word SELECT i::text FROM generate_series(1, 500) AS i;
CREATE INDEX ON word (word fickle);
CREATE OR REPLACE FUNCTION compare(text, text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT bttextcmp($2, $1)';
"""


@pytest.fixture(scope="module")
def own() -> Iterator[Source]:
    server = Source()
    try:
        server.make_roles()
        server.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup")
        server.execute("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements, auto_explain")
        server.stop()
        server.start()
        server.execute("CREATE DATABASE words")
        server.execute("CREATE EXTENSION pg_stat_statements; CREATE EXTENSION citext", "words")
        yield server
    finally:
        server.remove()


def take_base(site: Site) -> Manifest:
    return capture_night(site, "streamflix")[1]


def state(site: Site, manifest: Manifest) -> State:
    backup = site.catalog.backup(manifest.id)
    assert backup is not None
    return backup.state


def changed(manifest: Manifest, **entry: Any) -> Manifest:
    """Let each database of a manifest have other properties."""
    return manifest.model_copy(update={"databases": tuple(one.model_copy(update=entry) for one in manifest.databases)})


def test_what_is_there_is_judged_and_what_is_not_is_named(own: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(own)
    base = take_base(site)
    assert base.server.shared_preload_libraries == ("pg_stat_statements", "auto_explain")
    programs = Programs(own.bin)
    refuse_unfit(base, programs, site.runner)

    unknown = Extension(name="postgis", version="3.5.0")
    newer = Extension(name="citext", version="99.0")
    server = base.server.model_copy(update={"shared_preload_libraries": ("citext", "$libdir/timescaledb")})
    elsewhere = changed(base, extensions=(unknown, newer), locale_provider="i", ctype="xx_XX.UTF-8")
    elsewhere = elsewhere.model_copy(update={"server": server})
    with pytest.raises(UnfitError) as caught:
        refuse_unfit(elsewhere, programs, site.runner)
    assert caught.value.detail == (
        "it has not: extension citext 99.0, extension postgis 3.5.0, library $libdir/timescaledb"
        " (shared_preload_libraries), ICU, the locale provider of postgres, words, locale xx_XX.UTF-8"
    )
    older = base.model_copy(update={"server": base.server.model_copy(update={"version": 170000})})
    with pytest.raises(UnfitError, match="PostgreSQL 18 cannot start a physical backup of 17"):
        refuse_unfit(older, programs, site.runner)

    put_manifest(folder_of(site, base.id), elsewhere)
    with pytest.raises(UnfitError, match="no verdict"):
        verify(site, base.id, "local")
    assert state(site, base) is State.CAPTURED


def test_indexes_are_not_judged_by_another_collation(own: Source, site_for: Callable[..., Site]) -> None:
    """The same broken index: the backup's fault where collations agree, nobody's where this machine sorts otherwise."""
    site = site_for(own)
    own.execute(TURNED, "words")
    try:
        base = take_base(site)
        verification = verify(site, base.id, "local")
        assert verification.verdict is Verdict.REJECTED
        assert [one.name for one in verification.findings if not one.ok] == ["indexes are valid"]

        own.execute("UPDATE pg_collation SET collversion = '0' WHERE collname = 'pg_c_utf8'", "words")
        base = take_base(site)
        with pytest.raises(UnfitError, match="indexes cannot be judged here") as caught:
            verify(site, base.id, "local")
        assert "words: pg_c_utf8: recorded 0, here 1" in str(caught.value.detail)
        assert state(site, base) is State.CAPTURED

        own.execute("DROP TABLE word", "words")
        own.execute(
            "CREATE TABLE word (word text COLLATE pg_c_utf8 PRIMARY KEY); INSERT INTO word VALUES ('a')", "words"
        )
        assert verify(site, take_base(site).id, "local").verdict is Verdict.VERIFIED  # as no index contradicts it
    finally:
        own.execute("UPDATE pg_collation SET collversion = '1' WHERE collname = 'pg_c_utf8'", "words")
        own.execute("DROP TABLE IF EXISTS word", "words")

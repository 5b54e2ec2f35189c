"""A bit that turned, an end that is missing: no damaged backup is ever verified, with its old checksums or with new."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.forgery import flip, folder_of, manifest_of, restate
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain import findings as named
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ids import MANIFEST, SUMS
from pgbackup.domain.model import Finding, Verdict
from pgbackup.domain.ports import Site
from pgbackup.verify import check_files, check_restore, open_attempt, verify
from pgbackup.verify.steps import _decode as decode

ENCRYPTED = ("key.1.gpg", "globals.sql.gpg", "library.dump.gpg")
NAMES = (SUMS, MANIFEST, *ENCRYPTED)


@dataclass(frozen=True)
class Stored:
    """A good backup, a copy of its files, and an attempt at verifying it."""

    site: Site
    backup_id: str
    copy: Path

    @property
    def folder(self) -> Path:
        return folder_of(self.site, self.backup_id)

    def put_back(self) -> None:
        for path in self.copy.iterdir():
            shutil.copy(path, self.folder / path.name)

    def failures(self) -> list[str]:
        """Names of the findings that do not hold, step by step until one fails."""
        attempt = open_attempt(self.site, self.backup_id, "local")
        found: list[Finding] = [*check_files(self.site, attempt)]
        if all(finding.ok for finding in found):
            found += check_restore(self.site, attempt)
        return [finding.name for finding in found if not finding.ok]


def stored(folder: Path, source: Source, catalog_dsn: str, key: KeyPair | None, **cluster: Any) -> Stored:
    site = make_site(folder, source, catalog_dsn, key, exclude_databases=["postgres"], **cluster)
    backup_id = capture_full(site, "streamflix").id
    copy = shutil.copytree(folder_of(site, backup_id), folder / "copy")
    return Stored(site, backup_id, copy)


@pytest.fixture
def encrypted(tmp_path: Path, library: Source, catalog_dsn: str, key: KeyPair) -> Stored:
    return stored(tmp_path, library, catalog_dsn, key)


@pytest.fixture
def plain(tmp_path: Path, library: Source, catalog_dsn: str) -> Stored:
    return stored(tmp_path, library, catalog_dsn, None)


def test_any_byte_changed_anywhere_is_seen(encrypted: Stored) -> None:
    attempt = open_attempt(encrypted.site, encrypted.backup_id, "local")
    sizes = {name: (encrypted.folder / name).stat().st_size for name in NAMES}
    assert set(sizes) == {path.name for path in encrypted.folder.iterdir()}
    places = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), st.integers(0, sizes[name] - 1)))

    @settings(max_examples=400, deadline=None, database=None)
    @given(places, st.integers(1, 255))
    def is_seen(place: tuple[str, int], mask: int) -> None:
        name, offset = place
        flip(encrypted.folder / name, offset, mask)
        findings = check_files(encrypted.site, attempt)
        flip(encrypted.folder / name, offset, mask)
        assert [(finding.name, finding.ok) for finding in findings] == [(named.BYTES, False)]
        assert name in findings[0].detail or name in {SUMS, MANIFEST}

    is_seen()
    assert all(finding.ok for finding in check_files(encrypted.site, attempt))


def test_a_file_cut_grown_or_missing_is_seen(encrypted: Stored) -> None:
    for name in NAMES:
        path = encrypted.folder / name
        data = path.read_bytes()
        for other in (b"", data[: len(data) // 2], data[:-1], data + b"\0"):
            path.write_bytes(other)
            assert encrypted.failures() == [named.BYTES], (name, len(other))
        path.unlink()
        assert encrypted.failures() == [named.BYTES], name
        path.write_bytes(data)


def test_a_damaged_backup_is_rejected_and_says_why(encrypted: Stored) -> None:
    flip(encrypted.folder / "library.dump.gpg", 5000, 1)
    verification = verify(encrypted.site, encrypted.backup_id, "local")
    assert verification.verdict is Verdict.REJECTED
    assert verification.reason == f"{named.BYTES}: library.dump.gpg does not match its checksum"


def places(path: Path, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Places all over a file, and a bit to turn at each."""
    size = path.stat().st_size
    chance = random.Random(seed)
    for number in range(count):
        yield chance.randrange(size * number // count, size * (number + 1) // count), 1 << chance.randrange(8)


def test_encryption_sees_what_new_checksums_hide(encrypted: Stored) -> None:
    for name in ENCRYPTED:
        for offset, mask in places(encrypted.folder / name, 8, seed=18):
            flip(encrypted.folder / name, offset, mask)
            restate(encrypted.folder, plain=False)
            assert encrypted.failures() == [named.DECRYPT], (name, offset, mask)
            encrypted.put_back()


def test_encryption_sees_a_cut_that_new_checksums_hide(encrypted: Stored) -> None:
    for name in ENCRYPTED:
        data = (encrypted.folder / name).read_bytes()
        for length in (0, 1, len(data) // 2, len(data) - 1):
            (encrypted.folder / name).write_bytes(data[:length])
            restate(encrypted.folder, plain=False)
            assert encrypted.failures() == [named.DECRYPT], (name, length)
            encrypted.put_back()


def test_a_dump_cut_at_any_point_does_not_decode(plain: Stored) -> None:
    dump = plain.folder / "library.dump"
    data = dump.read_bytes()
    attempt = open_attempt(plain.site, plain.backup_id, "local")
    for length in [*(len(data) * part // 14 for part in range(14)), len(data) - 1]:
        dump.write_bytes(data[:length])
        restate(plain.folder, plain=True)
        assert all(finding.ok for finding in check_files(plain.site, attempt))
        with pytest.raises(RefusedError, match="the dump of 'library' does not decode"):
            decode(plain.site, manifest_of(plain.folder), attempt)
    assert set(plain.failures()) == {named.DECODE, named.RESTORE}


def test_a_turned_bit_in_a_compressed_dump_is_never_verified(plain: Stored) -> None:
    dump = plain.folder / "library.dump"
    data = dump.read_bytes()
    chance = random.Random(19)
    for _ in range(4):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data) // 3, len(data) * 9 // 10)] ^= 1 << chance.randrange(8)
        dump.write_bytes(damaged)
        restate(plain.folder, plain=True)
        assert verify(plain.site, plain.backup_id, "local").verdict is Verdict.REJECTED


@pytest.mark.parametrize("row", [b"\t7\t", b"room 13", b"cloth\t"], ids=["a key", "a text", "an enum"])
def test_only_the_restored_rows_tell_of_a_turned_bit_in_a_plain_dump(
    tmp_path: Path, library: Source, catalog_dsn: str, row: bytes
) -> None:
    """Neither encrypted nor compressed, and with new checksums: nothing else is left to see it."""
    plain = stored(tmp_path, library, catalog_dsn, None, full_backup={"compression": "none"})
    dump = plain.folder / "library.dump"
    data = bytearray(dump.read_bytes())
    data[data.rindex(row) + len(row) - 2] ^= 1
    dump.write_bytes(data)
    restate(plain.folder, plain=True)
    verification = verify(plain.site, plain.backup_id, "local")
    assert verification.verdict is Verdict.REJECTED
    failed = {finding.name for finding in verification.findings if not finding.ok}
    assert failed & {named.CONTENT, named.RESTORE}


def test_globals_that_cannot_be_run_are_rejected_without_showing_what_they_hold(plain: Stored) -> None:
    """The server's own message would quote the statement, and with it a password's hash."""
    path = plain.folder / "globals.sql"
    path.write_text(path.read_text() + "ALTER ROLE app WITH PASSWORD 'SCRAM-SHA-256$4096:salt' NONSENSE;\n")
    restate(plain.folder, plain=True)
    verification = verify(plain.site, plain.backup_id, "local")
    assert verification.verdict is Verdict.REJECTED
    assert verification.reason == f'{named.RESTORE}: globals: unrecognized role option "nonsense"'

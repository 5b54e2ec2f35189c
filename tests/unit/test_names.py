"""Names and checksums: no name of a database leaves its directory or meets another, no changed digest passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.errors import ConfigurationError, RefusedError
from pgbackup.domain.ids import CLUSTER_NAME, KEY_FILE, BackupId, decode_database, encode_database
from pgbackup.domain.model import Kind
from pgbackup.domain.sums import format_sums, parse_sums

clusters = st.from_regex(CLUSTER_NAME, fullmatch=True)
moments = st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
databases = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
digests = st.dictionaries(
    st.text("abcXYZ019._%-", min_size=1, max_size=12), st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1
)


@given(clusters, moments, st.sampled_from(Kind))
def test_an_id_is_read_back(cluster: str, moment: datetime, kind: Kind) -> None:
    backup_id = BackupId.at(cluster, moment, kind)
    assert BackupId.parse(str(backup_id)) == backup_id
    assert PurePosixPath(backup_id.key("x")).parts == (kind.value, str(backup_id), "x")


@given(moments, st.integers(-12 * 60, 14 * 60))
def test_ids_are_in_utc(moment: datetime, minutes: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(minutes=minutes)))
    assert BackupId.at("c", elsewhere, Kind.FULL) == BackupId.at("c", moment, Kind.FULL)


@given(moments, moments)
def test_ids_sort_by_time(first: datetime, second: datetime) -> None:
    first, second = sorted([first.replace(microsecond=0), second.replace(microsecond=0)])
    assert str(BackupId.at("c", first, Kind.FULL)) <= str(BackupId.at("c", second, Kind.FULL))


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "streamflix", "../streamflix_20260131_020000_full", "streamflix_20260131_020000_full/.."),
        *("a_1_2_full", "S_20260131_020000_full", "a_20260131_020000_fulll", "a_20260131_020000_full\n"),
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a backup id"):
        BackupId.parse(text)


@given(databases)
def test_every_database_name_is_a_file_name_and_back(name: str) -> None:
    encoded = encode_database(name)
    assert decode_database(encoded) == name
    assert encoded.isascii()
    assert not set(encoded) & set("/\\\0\n\r '\"$`;&|<>*?")
    assert not encoded.startswith((".",))
    assert len(encoded) <= 3 * len(name.encode())


@given(databases, databases)
def test_two_databases_have_two_file_names(first: str, second: str) -> None:
    assert (encode_database(first) == encode_database(second)) == (first == second)


@given(databases, st.sampled_from([".dump.gpg", ".dir.tar.gpg", ".dump", ".dir.tar"]))
def test_no_database_is_taken_for_a_key_the_globals_or_the_manifest(name: str, suffix: str) -> None:
    file = encode_database(name) + suffix
    assert not KEY_FILE.fullmatch(file)
    assert file not in {"globals.sql", "globals.sql.gpg", "manifest.json", "SHA256SUMS", "attest"}


@given(digests)
def test_checksums_are_read_back(named: dict[str, str]) -> None:
    assert parse_sums(format_sums(named), source="s") == named


@given(digests, st.data())
def test_no_changed_byte_passes(named: dict[str, str], data: st.DataObject) -> None:
    text = bytearray(format_sums(named))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    try:
        found = parse_sums(bytes(text), source="s")
    except RefusedError:
        return
    assert found != named


@given(digests, st.data())
def test_no_cut_passes(named: dict[str, str], data: st.DataObject) -> None:
    text = format_sums(named)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    try:
        found = parse_sums(cut, source="s")
    except RefusedError:
        return
    assert found != named


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"x", b"a" * 64 + b" *file\n", b"A" * 64 + b"  file\n", b"a" * 64 + b"  ../file\n", b"\xff" * 70],
)
def test_other_formats_are_refused(text: bytes) -> None:
    with pytest.raises(RefusedError, match="damaged"):
        parse_sums(text, source="s")


def test_a_name_that_is_listed_twice_is_refused() -> None:
    line = b"a" * 64 + b"  file\n"
    with pytest.raises(RefusedError):
        parse_sums(line + b"b" * 64 + b"  file\n", source="s")

"""What a repository on S3 promises besides: parts, and what the server is told and keeps of an object."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.faulty import FaultyWay
from tests.support.s3 import BUCKET, Region

from pgbackup.domain.errors import RefusedError, UnavailableError, UnfitError
from pgbackup.store import S3Store, s3, s3_upload

SMALL = 5 << 20
_numbers = itertools.count()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 MiB, the smallest that S3 takes."""
    monkeypatch.setattr(s3_upload, "_FIRST", SMALL)


@pytest.fixture
def store(region: Region, way: FaultyWay) -> S3Store:
    return region.store(f"s3-{next(_numbers)}", endpoint=way.endpoint)


def put(store: S3Store, data: bytes = b"x", key: str = "full/a/b") -> None:
    with store.create(key) as sink:
        sink.write(data)


def keys(store: S3Store) -> list[str]:
    return [found.key for found in store.list("")]


def unfinished(region: Region, store: S3Store) -> list[Any]:
    found = region.admin().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [one for one in found if one["Key"].startswith(store._root)]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [SMALL, 4 * SMALL + 17])
def test_parts_are_one_object(region: Region, store: S3Store, size: int) -> None:
    data = os.urandom(size)
    put(store, data)
    assert store.read("full/a/b") == data
    assert store.matches("full/a/b", BytesIO(data))
    assert not store.matches("full/a/b", BytesIO(data[:-1] + bytes([data[-1] ^ 1])))
    with pytest.raises(RefusedError):
        put(store, data)
    assert not unfinished(region, store)


def test_long_listings_come_page_by_page(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(25):
        put(store, key=f"full/a/{number:03}")
    pages: list[int] = []
    ask = store._client.list_objects_v2
    monkeypatch.setattr(store._client, "list_objects_v2", lambda **given: pages.append(1) or ask(**given, MaxKeys=10))
    listing = store.list("full/a/")
    assert next(listing).key == "full/a/000"
    assert len(pages) == 1
    assert [found.key[-3:] for found in listing] == [f"{number:03}" for number in range(1, 25)]
    assert len(pages) == 3
    monkeypatch.setattr(s3, "_BATCH", 10)
    store.clean("full/a")
    assert keys(store) == []


# --------------------------------------------------------------------------------------- what the server keeps


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [1, SMALL + 1])
@pytest.mark.parametrize("key", [None, "the-key"])
def test_the_storage_is_told_how_to_keep_an_object(region: Region, size: int, key: str | None) -> None:
    encryption = "aws:kms" if key else "AES256"
    options = {"storage_class": "STANDARD_IA", "encryption": encryption, "kms_key": key}
    store, data = region.store(f"s3-{next(_numbers)}", **options), os.urandom(size)
    put(store, data)
    found = region.admin().head_object(Bucket=BUCKET, Key=f"{store._root}full/a/b")
    assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", encryption)
    assert found.get("SSEKMSKeyId") == key
    assert store.read("full/a/b") == data
    assert store.matches("full/a/b", BytesIO(data))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [1, SMALL + 1])
def test_a_storage_that_refuses_checksums_is_used_without(region: Region, way: FaultyWay, size: int) -> None:
    """The way answers as such a storage does. What goes there is guarded by its MD5; comparing reads it back."""
    prefix, data = f"s3-{next(_numbers)}", os.urandom(size)
    way.refused, way.answer = b"x-amz-checksum-", 501
    with pytest.raises(UnfitError) as caught:
        put(region.store(prefix, endpoint=way.endpoint), data)
    assert "checksums: false" in (caught.value.hint or "")
    way.heads.clear()
    store = region.store(prefix, endpoint=way.endpoint, checksums=False)
    put(store, data)
    assert all(b"content-md5" in head for head in way.heads if b"x-id=put" in head or b"partnumber" in head)
    assert store.matches("full/a/b", BytesIO(data))
    assert not store.matches("full/a/b", BytesIO(data[:-1] + bytes([data[-1] ^ 1])))
    store.clean("full/a")
    assert keys(store) == []
    assert not any(b"x-amz-checksum-" in head for head in way.heads)


def test_bytes_that_a_storage_without_checksums_is_sent_are_guarded(region: Region, way: FaultyWay) -> None:
    store = region.store(f"s3-{next(_numbers)}", endpoint=way.endpoint, checksums=False)
    way.flip = ("up", b"needle", b"NEEDLE")
    with pytest.raises((UnavailableError, UnfitError)):
        put(store, b"....needle")
    way.heal()
    assert keys(store) == []


def test_an_object_of_another_program_is_compared_by_its_bytes(region: Region) -> None:
    """The storage knows no SHA-256 of it."""
    store = region.store(f"s3-{next(_numbers)}")
    region.admin().put_object(Bucket=BUCKET, Key=f"{store._root}full/a/b", Body=b"data")
    assert store.matches("full/a/b", BytesIO(b"data"))
    assert not store.matches("full/a/b", BytesIO(b"Data"))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_what_is_locked_stays(region: Region, size: int) -> None:
    bucket = f"locked-{next(_numbers)}"
    region.make_bucket(bucket, ObjectLockEnabledForBucket=True)
    admin = region.admin()
    store = region.store(bucket=bucket, lock={"mode": "governance", "retain": "1h", "legal_hold": True})
    store._connect = lambda: admin
    before = datetime.now(UTC)
    put(store, bytes(size))
    found = admin.head_object(Bucket=bucket, Key="full/a/b")
    assert (found["ObjectLockMode"], found["ObjectLockLegalHoldStatus"]) == ("GOVERNANCE", "ON")
    assert found["ObjectLockRetainUntilDate"] > before + timedelta(minutes=59)
    with pytest.raises(admin.exceptions.ClientError):
        admin.delete_object(Bucket=bucket, Key="full/a/b", VersionId=found["VersionId"])
    with pytest.raises(UnfitError, match="lock"):
        store.delete("full/a/b")


# ------------------------------------------------------------------------------------------------------- parts


@given(st.integers(1, 10_000))
def test_any_object_fits_into_what_s3_takes(number: int) -> None:
    assert 5 << 20 <= s3_upload.part_bytes(number) <= 5 << 30
    assert s3_upload.part_bytes(number) <= s3_upload.part_bytes(number + 1)


def test_ten_thousand_parts_hold_two_terabytes() -> None:
    assert sum(map(s3_upload.part_bytes, range(1, 10_001))) > 2 << 40


@given(st.lists(st.binary(max_size=30)), st.integers(1, 7))
def test_a_checksum_does_not_depend_on_the_chunks(chunks: list[bytes], size: int) -> None:
    whole = b"".join(chunks)
    again = [whole[start : start + size] for start in range(0, len(whole), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_upload, "_FIRST", 16)
        assert s3_upload.checksum(chunks) == s3_upload.checksum(again) == s3_upload.checksum([whole])

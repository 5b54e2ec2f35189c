"""The audit of a bucket: what its storage tells, what anybody may, what the credentials can do besides."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from tests.support.faulty import FaultyWay
from tests.support.s3 import BUCKET, NARROW, Region
from tests.support.source import Source

from pgbackup.audit import audit_one, names
from pgbackup.capture import capture_full
from pgbackup.copy import copy_missing, copy_wal
from pgbackup.domain.model import Severity
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.settings import S3
from pgbackup.domain.wal import Sealed
from pgbackup.store import S3Store

FAR = "eu-central-1"
FAILS, WARNS, UNKNOWN = Severity.FAILURE, Severity.WARNING, Severity.UNKNOWN
UNTOLD = dict.fromkeys((names.VERSIONS, names.LOCK, names.BLOCKED, names.AT_REST), UNKNOWN)


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    """A region of this module's own: it is opened to the world."""
    own = Region()
    try:
        own.make_bucket("locked", ObjectLockEnabledForBucket=True)
        yield own
    finally:
        own.remove()


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source) -> Site:
    site = site_for(library)
    return dataclasses.replace(site, clock=lambda: datetime.now(UTC) + timedelta(days=3))


def holding(site: Site, store: Store) -> Site:
    return dataclasses.replace(site, repositories={**site.repositories, FAR: store})


def bad(site: Site, store: Store) -> dict[str, Severity]:
    return {one.name: one.severity for one in audit_one(holding(site, store), FAR) if not one.ok}


def as_admin(region: Region, bucket: str = BUCKET, **options: Any) -> S3Store:
    settings = S3(**{"bucket": bucket, "prefix": "narrow", **options})
    return S3Store(settings, region.admin, name=FAR, clock=lambda: datetime.now(UTC))


def everything(region: Region) -> list[tuple[str, str]]:
    client = region.admin()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    return [(one["Key"], one["ETag"]) for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def test_what_credentials_may_not_ask_is_not_known_and_fails_only_where_it_has_to_be(
    site: Site, region: Region
) -> None:
    assert bad(site, region.store("narrow", name=FAR, keys=NARROW)) == UNTOLD
    locked = region.store("narrow", name=FAR, keys=NARROW, lock={"retain": "1d"})
    assert bad(site, locked) == UNTOLD | {names.LOCK: FAILS}


def test_credentials_that_can_do_more_are_told_and_nothing_was_tried_for_real(site: Site, region: Region) -> None:
    with region.store("narrow").create("recovery/RECOVERY.md") as sink:
        sink.write(b"how to recover")
    before = everything(region)
    (found,) = [
        one for one in audit_one(holding(site, region.store("narrow", name=FAR)), FAR) if one.name == names.CREDENTIALS
    ]
    assert (found.ok, found.severity) == (False, WARNS)
    for word in ("policy", "list what is not under narrow/", "write objects that are not under narrow/"):
        assert word in found.detail
    (found,) = [one for one in audit_one(holding(site, as_admin(region)), FAR) if one.name == names.CREDENTIALS]
    assert "see 1 other buckets" in found.detail
    assert everything(region) == before


def public_list(client: Any) -> Callable[[], object]:
    client.put_bucket_acl(Bucket=BUCKET, ACL="public-read")
    return lambda: client.put_bucket_acl(Bucket=BUCKET, ACL="private")


def public_policy(client: Any) -> Callable[[], object]:
    resources = [f"arn:aws:s3:::{BUCKET}/*"]
    statement = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": resources}
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    return lambda: client.delete_bucket_policy(Bucket=BUCKET)


@pytest.mark.parametrize("open_up", [public_list, public_policy])
def test_a_public_bucket_is_found_by_any_credentials_until_it_is_closed(
    site: Site, region: Region, open_up: Callable[[Any], Callable[[], object]]
) -> None:
    store = region.store("narrow", name=FAR, keys=NARROW)
    if not any(store.list("recovery/sheet.md")):
        with store.create("recovery/sheet.md") as sink:
            sink.write(b"how to recover")
    close = open_up(region.admin())
    try:
        for one in (store, as_admin(region)):
            assert bad(site, one)[names.NOT_PUBLIC] is FAILS
    finally:
        close()
    for one in (store, as_admin(region)):
        assert names.NOT_PUBLIC not in bad(site, one)


def test_versions_lock_and_encryption_are_told_and_mended(site: Site, region: Region) -> None:
    region.make_bucket("plain")
    client = region.admin()
    told = {names.BLOCKED: UNKNOWN, names.CREDENTIALS: WARNS}  # this storage knows no public access block
    unset = {names.VERSIONS: WARNS, names.AT_REST: WARNS}
    lock = {"mode": "governance", "retain": "1d"}
    assert bad(site, as_admin(region, "plain")) == told | unset
    assert bad(site, as_admin(region, "plain", lock=lock)) == told | unset | {names.VERSIONS: FAILS, names.LOCK: FAILS}
    client.put_bucket_versioning(Bucket="plain", VersioningConfiguration={"Status": "Enabled"})
    rules = [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    client.put_bucket_encryption(Bucket="plain", ServerSideEncryptionConfiguration={"Rules": rules})
    assert bad(site, as_admin(region, "plain")) == told
    assert bad(site, as_admin(region, "locked", lock=lock, encryption="AES256")) == told
    default = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    client.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": default}
    )
    assert bad(site, as_admin(region, "locked", encryption="AES256")) == told | {names.LOCK: FAILS}
    client.delete_bucket(Bucket="plain")


def test_objects_that_a_region_lost_or_changed_are_found_and_a_silent_region_is_one_finding(
    site: Site, region: Region
) -> None:
    now = dataclasses.replace(site, clock=lambda: datetime.now(UTC))
    way = FaultyWay(region.port + 3)
    try:
        store = region.store("narrow/objects", name=FAR, keys=NARROW, endpoint=way.endpoint, timeout="2s")
        backup_id = capture_full(now, "streamflix").id
        copy_missing(holding(now, store), "streamflix", FAR)
        assert bad(site, store) == UNTOLD
        key = f"full/{backup_id}/library.dump.gpg"
        data = store.read(key)
        store.delete(key)
        assert bad(site, store) == UNTOLD | {names.WHOLE: FAILS}
        with store.create(key) as sink:
            sink.write(b"PGDMP".ljust(len(data), b"x"))
        assert bad(site, store) == UNTOLD | {names.ENCRYPTED: FAILS}
        store.clean(f"full/{backup_id}")
        assert bad(site, store) == UNTOLD | {names.AGREES: FAILS}
        way.refusing = True
        assert bad(site, store) == {names.ANSWERS: FAILS}
    finally:
        way.close()


def test_a_large_object_is_not_downloaded(site: Site, region: Region) -> None:
    way = FaultyWay(region.port + 3)
    try:
        store = region.store("narrow/large", name=FAR, keys=NARROW, endpoint=way.endpoint)
        seal(site, os.urandom(64 << 20))
        copy_wal(holding(site, store), "streamflix", FAR)
        way.cut("down", after=32 << 20)
        assert bad(site, store) == UNTOLD
        assert way.cuts, "more came than the beginnings of objects"
    finally:
        way.close()


def seal(site: Site, plain: bytes) -> None:
    (command,) = site.keyring.seal()
    data, _ = site.runner.run(command, feed=plain)
    sealed = Sealed(
        cluster="streamflix", name="000000010000000000000001", system_identifier="7", timeline=1,
        segment_size=1 << 26, plain_bytes=len(plain), plain_sha256=sha256(plain).hexdigest(), stored_bytes=len(data),
        stored_sha256=sha256(data).hexdigest(), encrypted=True, sealed_at=datetime.now(UTC),
    )  # fmt: skip
    for key, content in ((sealed.data_key, data), (sealed.sidecar_key, sealed.to_json())):
        with site.local.create(key) as sink:
            sink.write(content)

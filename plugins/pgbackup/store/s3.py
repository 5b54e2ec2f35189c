"""A repository in an S3 bucket: written once, checked by the server, read on through cut connections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from botocore.exceptions import BotoCoreError

from pgbackup.domain.errors import UnavailableError, UnfitError
from pgbackup.domain.ids import SUMS
from pgbackup.domain.model import ObjectInfo
from pgbackup.domain.ports import Clock, Readable, Sink
from pgbackup.domain.settings import S3
from pgbackup.store.compare import same_bytes
from pgbackup.store.keys import checked_parts
from pgbackup.store.s3_audit import Bucket, read_bucket
from pgbackup.store.s3_errors import SILENT, explained
from pgbackup.store.s3_upload import Upload, checksum

_ATTEMPTS = 4
_CHUNK = 1 << 20
_LOCKED = "the credentials must allow to delete; what a lock or a hold keeps can be deleted when that has ended"
_BATCH = 1000  # what S3 deletes in one request


def client_config(settings: S3) -> Any:
    """Return the botocore configuration of a repository's client: everything ends some day, faults are tried again."""
    from botocore.config import Config  # noqa: PLC0415 - most commands need no region

    seconds = settings.timeout.total_seconds()
    return Config(
        connect_timeout=min(seconds, 10),
        read_timeout=seconds,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        signature_version="s3v4",
        # Uploads carry their SHA-256 anyway; what is read is compared with SHA256SUMS.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def profile_client(settings: S3) -> Any:
    """Make a client from the environment, or a profile of ~/.aws/config: credentials, region, endpoint_url."""
    import boto3  # noqa: PLC0415 - half a second

    return boto3.session.Session(profile_name=settings.profile).client("s3", config=client_config(settings))


class S3Store:
    """See ports.Store. ``connect`` makes the client at the first use."""

    def __init__(self, settings: S3, connect: Callable[[], Any], *, name: str, clock: Clock) -> None:
        self._settings = settings
        self._connect = connect
        self._name = name
        self._clock = clock
        self._root = f"{settings.prefix.strip('/')}/".lstrip("/")

    @property
    def name(self) -> str:
        """The repository's name."""
        return self._name

    @contextlib.contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        """Write an object; see ports.Store."""
        target = self._object(key)
        with explained(self._name, key):
            upload = Upload(self._client, target, self._options(), checksums=self._settings.checksums)
        with explained(self._name, key):
            try:
                yield upload
                upload.finish()
            finally:
                upload.abort()

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Readable]:
        """Read an object; see ports.Store. A cut connection is taken up where it was cut."""
        target = self._object(key)
        with explained(self._name, key):
            reading = _Reading(self._client, target, self._name)
        with contextlib.closing(reading):
            yield reading

    def read(self, key: str) -> bytes:
        """Return a small object whole; see ports.Store."""
        with self.open(key) as file:
            return file.read()

    def matches(self, key: str, source: Readable) -> bool:
        """Compare by the checksum that the storage keeps, or by reading it; see ports.Store."""
        mode = {"ChecksumMode": "ENABLED"} if self._settings.checksums else {}
        with explained(self._name, key):
            found = self._client.head_object(**self._object(key), **mode)
        if kept := found.get("ChecksumSHA256"):
            return (found["ContentLength"], kept) == checksum(iter(lambda: source.read(_CHUNK), b""))
        with self.open(key) as file:
            return same_bytes(file, source)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """List complete objects in key order, page by page; see ports.Store."""
        with explained(self._name, prefix):
            start = {"StartAfter": self._root + after} if after else {}
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._settings.bucket, Prefix=self._root + prefix, **start
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    yield ObjectInfo(found["Key"].removeprefix(self._root), found["Size"], found["LastModified"])

    def delete(self, key: str) -> None:
        """Remove an object; see ports.Store. A locked bucket keeps versions: without naming them, all bytes stay."""
        target = self._object(key)
        try:
            with explained(self._name, key):
                for version in self._versions(target["Key"]) if self._settings.lock else ({},):
                    self._client.delete_object(**target, **version)
        except UnfitError as error:
            raise UnfitError(error.message, detail=error.detail, hint=_LOCKED) from error

    def hold(self, key: str, *, on: bool) -> None:
        """Set or lift a legal hold; see ports.Store. One that everything is stored with is not ours to lift."""
        lock = self._settings.lock
        if lock and (on or not lock.legal_hold):
            with explained(self._name, key):
                self._client.put_object_legal_hold(**self._object(key), LegalHold={"Status": "ON" if on else "OFF"})

    def clean(self, prefix: str) -> None:
        """Remove everything under a prefix; see ports.Store. The commit point goes first."""
        folder = "/".join(checked_parts(prefix))
        self.delete(f"{folder}/{SUMS}")
        found = self.list(f"{folder}/")
        while some := [one.key for one in islice(found, _BATCH)]:
            self._delete(some)
        with explained(self._name, folder):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._settings.bucket, Prefix=f"{self._root}{folder}/"
            )
            for upload in [one for page in pages for one in page.get("Uploads", ())]:
                self._client.abort_multipart_upload(
                    Bucket=self._settings.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no end."""
        return None

    def bucket(self) -> Bucket:
        """Return what the storage tells of the bucket; see s3_audit.read_bucket."""
        return read_bucket(self._client, self._settings, self._root, self._name)

    @property
    def settings(self) -> S3:
        """How it is configured."""
        return self._settings

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._settings.bucket, "Key": self._root + "/".join(checked_parts(key))}

    def _versions(self, key: str) -> Sequence[dict[str, str]]:
        """List every version of an object, oldest first: its lock ends first; what hides them comes last."""
        listing = self._client.get_paginator("list_object_versions").paginate(Bucket=self._settings.bucket, Prefix=key)
        pages = list(listing)
        kinds = ("DeleteMarkers", "Versions")
        found = [one for kind in kinds for page in pages for one in page.get(kind, ()) if one["Key"] == key]
        return [{"VersionId": one["VersionId"]} for one in reversed(found)]

    def _delete(self, keys: Sequence[str]) -> None:
        if not self._settings.checksums:  # boto sends one with every request for many
            for key in keys:
                self.delete(key)
            return
        with explained(self._name, keys[0]):
            done = self._client.delete_objects(
                Bucket=self._settings.bucket,
                Delete={"Objects": [{"Key": self._root + key} for key in keys], "Quiet": True},
            )
        if failed := done.get("Errors"):
            raise UnavailableError(
                f"repository {self._name} did not delete {len(failed)} objects",
                detail=f"{failed[0]['Key']}: {failed[0].get('Message') or failed[0].get('Code')}",
                hint="a hold or a lock keeps them until it ends",
            )

    def _options(self) -> dict[str, Any]:
        """Return what every object is written with."""
        settings, lock = self._settings, self._settings.lock
        until = self._clock() + lock.retain if lock and lock.retain else None
        options = {
            "StorageClass": settings.storage_class,
            "ServerSideEncryption": settings.encryption,
            "SSEKMSKeyId": settings.kms_key,
            "ObjectLockMode": lock.mode.upper() if lock and until else None,
            "ObjectLockRetainUntilDate": until,
            "ObjectLockLegalHoldStatus": "ON" if lock and lock.legal_hold else None,
        }
        return {name: value for name, value in options.items() if value is not None}


class _Reading:
    """An open object. Raises UnavailableError when it is cut again and again without a byte more."""

    def __init__(self, client: Any, target: dict[str, str], repository: str) -> None:
        self._client = client
        self._target = target
        self._repository = repository
        self._offset = 0
        first = client.get_object(**target)
        self._size, self._etag = int(first["ContentLength"]), first["ETag"]
        self._body = first["Body"]

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        with explained(self._repository, self._target["Key"]):
            for attempt in range(_ATTEMPTS):
                try:
                    return self._read(size)
                except SILENT:
                    self.close()
                    if attempt == _ATTEMPTS - 1:
                        raise
                    time.sleep(0.2 * 4**attempt)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Give the connection back."""
        if self._body is not None:
            with contextlib.suppress(BotoCoreError, OSError):
                self._body.close()
            self._body = None

    def _read(self, size: int) -> bytes:
        if self._offset == self._size or not size:
            return b""
        if self._body is None:
            rest = self._client.get_object(**self._target, Range=f"bytes={self._offset}-", IfMatch=self._etag)
            self._body = rest["Body"]
        data: bytes = self._body.read(size)
        self._offset += len(data)
        return data

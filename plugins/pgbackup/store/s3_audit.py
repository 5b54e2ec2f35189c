"""A bucket as its storage tells it: settings, what everybody may, what our credentials may. Nothing is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from botocore.exceptions import ClientError
from botocore.handlers import disable_signing

from pgbackup.domain.settings import S3
from pgbackup.store.s3_errors import code, explained

_EVERYBODY = ("/global/AllUsers", "/global/AuthenticatedUsers")
_PROBE = "pgbackup-audit-probe"
_SIGNER = "choose-signer.s3"
_NONE = frozenset(
    {
        "ObjectLockConfigurationNotFoundError",
        "NoSuchPublicAccessBlockConfiguration",
        "NoSuchBucketPolicy",
        "ServerSideEncryptionConfigurationNotFoundError",
    }
)


@dataclass(frozen=True)
class Untold:
    """What the storage does not know of, or does not tell these credentials; ``reason`` is its error's name."""

    reason: str


Told = Mapping[str, Any] | Untold
"""An answer of the S3 API; empty where nothing of the kind is set."""


@dataclass(frozen=True)
class Bucket:
    """What a bucket is set to, and who may what in it.

    ``anonymous`` is what anybody may do without credentials. ``reaches`` is what our credentials may do, and need not.
    """

    versioning: Told
    lock: Told
    block: Told
    encryption: Told
    acl: Told
    policy_status: Told
    anonymous: tuple[str, ...]
    reaches: tuple[str, ...]

    @property
    def public_grants(self) -> tuple[str, ...]:
        """The rights that the access list gives to everybody."""
        grants = () if isinstance(self.acl, Untold) else self.acl.get("Grants", ())
        return tuple(
            str(grant.get("Permission"))
            for grant in grants
            if str(grant.get("Grantee", {}).get("URI", "")).endswith(_EVERYBODY)
        )


def read_bucket(client: Any, settings: S3, root: str, repository: str) -> Bucket:
    """Ask for everything; ``root`` is the repository's folder in the bucket, with its slash.

    Raises UnavailableError when the storage does not answer, UnfitError when it refuses us altogether.
    """
    bucket = settings.bucket
    with explained(repository, "the bucket's settings"):
        return Bucket(
            versioning=_ask(client.get_bucket_versioning, bucket),
            lock=_ask(client.get_object_lock_configuration, bucket, "ObjectLockConfiguration"),
            block=_ask(client.get_public_access_block, bucket, "PublicAccessBlockConfiguration"),
            encryption=_ask(client.get_bucket_encryption, bucket, "ServerSideEncryptionConfiguration"),
            acl=_ask(client.get_bucket_acl, bucket),
            policy_status=_ask(client.get_bucket_policy_status, bucket, "PolicyStatus"),
            anonymous=_anonymous(client, bucket, root),
            reaches=_reaches(client, bucket, root),
        )


def _ask(call: Callable[..., Any], bucket: str, part: str | None = None) -> Told:
    try:
        answer: Mapping[str, Any] = call(Bucket=bucket)
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code(error) in _NONE:
            return {}
        if status in {400, 403, 405, 501}:
            return Untold(code(error))
        raise
    return answer.get(part, {}) if part else answer


def _anonymous(client: Any, bucket: str, root: str) -> tuple[str, ...]:
    """Try without credentials to list the bucket, and to read the first byte of an object."""
    first = client.list_objects_v2(Bucket=bucket, Prefix=root, MaxKeys=1).get("Contents", ())
    with _unsigned(client):
        lists = _may(lambda: client.list_objects_v2(Bucket=bucket, MaxKeys=1))
        reads = any(_may(partial(_read_one, client, bucket, one["Key"])) for one in first)
    return tuple(what for what, may in (("list it", lists), ("read its objects", reads)) if may)


def _read_one(client: Any, bucket: str, key: str) -> None:
    client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()


@contextlib.contextmanager
def _unsigned(client: Any) -> Iterator[None]:
    """Let a client send no credentials; nobody else may use it meanwhile."""
    client.meta.events.register(_SIGNER, disable_signing)
    try:
        yield
    finally:
        client.meta.events.unregister(_SIGNER, disable_signing)


def _reaches(client: Any, bucket: str, root: str) -> tuple[str, ...]:
    """Try what should be refused, and changes nothing where it is not."""
    found = []
    with contextlib.suppress(ClientError):
        others = [one["Name"] for one in client.list_buckets().get("Buckets", ()) if one["Name"] != bucket]
        if others:
            found.append(f"see {len(others)} other buckets")
    if not isinstance(_ask(client.get_bucket_policy, bucket), Untold):
        found.append("read the bucket's policy (who may write it, too, can make it public: s3:PutBucketPolicy)")
    if root and _may(lambda: client.list_objects_v2(Bucket=bucket, MaxKeys=1)):
        found.append(f"list what is not under {root}")
    if root and _may(lambda: _put_nowhere(client, bucket)):
        found.append(f"write objects that are not under {root}")
    return tuple(found)


def _put_nowhere(client: Any, bucket: str) -> None:
    """Send a part of an upload that does not exist: it needs the right to write, and nothing comes of it."""
    try:
        client.upload_part(Bucket=bucket, Key=_PROBE, UploadId=_PROBE, PartNumber=1, Body=b"")
    except ClientError as error:
        if code(error) != "NoSuchUpload":
            raise


def _may(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except ClientError:
        return False
    return True

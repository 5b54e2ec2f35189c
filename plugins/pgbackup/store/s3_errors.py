"""What an S3 server, or the way to it, says went wrong, as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as UnreachableError

from pgbackup.domain.errors import PgBackupError, RefusedError, UnavailableError, UnfitError

SILENT = (HTTPClientError, UnreachableError, IncompleteReadError)
"""What boto raises when no answer comes, or not all of it."""

_GONE = frozenset({"NoSuchKey", "404", "NoSuchVersion"})
_EXISTS = frozenset({"PreconditionFailed", "412"})
_BUSY = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "TooManyRequests", "BadDigest", "ConditionalRequestConflict"}
)
_NO_CHECKSUMS = "if the storage does not know x-amz-checksum-sha256, set `checksums: false` for the repository"
_HINTS = {
    "NotImplemented": _NO_CHECKSUMS,
    "501": _NO_CHECKSUMS,
    "InvalidArgument": _NO_CHECKSUMS,
    "InvalidRequest": _NO_CHECKSUMS,
    "NoSuchBucket": "the bucket must exist before the first copy; look at `bucket` and at the region",
    "RequestTimeTooSkewed": "set this machine's clock",
    "ExpiredToken": "get new credentials",
    "InvalidObjectState": "the storage class keeps it in a vault: have it brought back first",
}
_CREDENTIALS = "the credentials must be valid, and may list the bucket, read, write and delete its objects"


@contextlib.contextmanager
def explained(repository: str, key: str) -> Iterator[None]:
    """Raise what boto raises as UnavailableError, UnfitError or RefusedError."""
    try:
        yield
    except ClientError as error:
        raise _answered(error, repository, key) from error
    except SILENT as error:
        raise UnavailableError(
            f"repository {repository} does not answer", detail=_told(error), hint="it is tried again later"
        ) from error
    except BotoCoreError as error:
        raise UnfitError(f"cannot use repository {repository}", detail=_told(error), hint=_CREDENTIALS) from error


def code(error: ClientError) -> str:
    """Return what the server calls it."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_refused_as_existing(error: ClientError) -> bool:
    """Tell whether a write was refused because the key is taken, or its upload was completed before."""
    return code(error) in _EXISTS | {"NoSuchUpload"}


def _answered(error: ClientError, repository: str, key: str) -> PgBackupError:
    name, status = code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if name in _GONE:
        return RefusedError(f"repository {repository} does not hold {key}")
    if name in _EXISTS:
        return RefusedError(
            f"{key} exists already in repository {repository}",
            hint="objects are written once; a retry takes a new id",
        )
    if name in _BUSY or status == 429 or (status >= 500 and name not in _HINTS):
        return UnavailableError(
            f"repository {repository} fails at {key}", detail=_told(error), hint="it is tried again later"
        )
    return UnfitError(
        f"repository {repository} refuses {key or 'to be listed'}",
        detail=_told(error),
        hint=_HINTS.get(name, _CREDENTIALS),
    )


def _told(error: Exception) -> str:
    return str(error)[:1000]

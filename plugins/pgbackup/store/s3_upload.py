"""An object on its way into S3: in parts, with checksums, in bounded memory; visible when it is complete."""

from __future__ import annotations

import contextlib
import secrets
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import md5, sha256
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pgbackup.store.s3_errors import is_refused_as_existing

_FIRST = 16 << 20
_DOUBLED_EVERY = 1500  # parts; S3 takes 10,000 of them: 2.5 TB, and 64 MB a part at 100 GB
_AT_ONCE = 3
_WRITER = "writer"


def part_bytes(number: int) -> int:
    """Return the size of a part, from 1 on; the last one of an object may be smaller."""
    return _FIRST << (number - 1) // _DOUBLED_EVERY


class Upload:
    """See ports.Sink. Raises what boto raises.

    Every request carries the SHA-256 of its bytes, without ``checksums`` the MD5; the server refuses others. A key that
    is taken is refused when the upload ends, unless this very upload has it: a lost answer makes boto ask twice.
    """

    def __init__(
        self, client: Any, target: Mapping[str, str], options: Mapping[str, Any], *, checksums: bool = True
    ) -> None:
        self._client = client
        self._target = dict(target)
        self._token = secrets.token_hex(16)
        self._options = {**options, "Metadata": {_WRITER: self._token}}
        self._checksums = checksums
        self._buffer = bytearray()
        self._upload: dict[str, str] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[dict[str, Any]]] = deque()
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes; waits while too many of them are under way."""
        view = memoryview(data).cast("B")
        while view:
            room = part_bytes(self._next) - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == part_bytes(self._next):
                self._send()

    def finish(self) -> None:
        """Make it an object."""
        try:
            if self._upload:
                self._complete()
            else:
                self._client.put_object(
                    **self._target,
                    **self._options,
                    **self._guard(self._buffer),
                    Body=self._buffer,
                    IfNoneMatch="*",
                )
        except ClientError as error:
            if not (is_refused_as_existing(error) and self._is_ours()):
                raise
        self._upload = {}

    def abort(self) -> None:
        """Leave nothing, as far as the server answers."""
        for future in self._under_way:
            future.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._upload:
            with contextlib.suppress(ClientError, BotoCoreError):
                self._client.abort_multipart_upload(**self._target, **self._upload)

    @property
    def _next(self) -> int:
        return len(self._parts) + len(self._under_way) + 1

    def _complete(self) -> None:
        if self._buffer:
            self._send()
        while self._under_way:
            self._arrived()
        self._client.complete_multipart_upload(
            **self._target, **self._upload, MultipartUpload={"Parts": self._parts}, IfNoneMatch="*"
        )

    def _send(self) -> None:
        if self._pool is None:
            algorithm = {"ChecksumAlgorithm": "SHA256"} if self._checksums else {}
            begun = self._client.create_multipart_upload(**self._target, **self._options, **algorithm)
            self._upload = {"UploadId": begun["UploadId"]}
            self._pool = ThreadPoolExecutor(max_workers=_AT_ONCE)
        while len(self._under_way) >= _AT_ONCE:
            self._arrived()
        self._under_way.append(self._pool.submit(self._put, self._next, self._buffer))
        self._buffer = bytearray()

    def _put(self, number: int, body: bytearray) -> dict[str, Any]:
        part, guard = {"PartNumber": number}, self._guard(body)
        done = self._client.upload_part(**self._target, **self._upload, **part, **guard, Body=body)
        return {**part, "ETag": done["ETag"], **(guard if self._checksums else {})}

    def _guard(self, body: bytearray) -> dict[str, str]:
        if self._checksums:
            return {"ChecksumSHA256": _digest(body)}
        return {"ContentMD5": b64encode(md5(body, usedforsecurity=False).digest()).decode()}

    def _arrived(self) -> None:
        self._parts.append(self._under_way[0].result())
        self._under_way.popleft()

    def _is_ours(self) -> bool:
        try:
            found = self._client.head_object(**self._target)
        except ClientError:
            return False
        return bool(found["Metadata"].get(_WRITER) == self._token)


def checksum(chunks: Iterable[bytes]) -> tuple[int, str]:
    """Return the size of an object with these bytes, and the checksum that S3 keeps of it after an Upload."""
    total, filled, part, parts = 0, 0, sha256(usedforsecurity=False), b""
    number = 1
    for chunk in chunks:
        view = memoryview(chunk)
        total += len(view)
        while view:
            taken = view[: part_bytes(number) - filled]
            part.update(taken)
            filled += len(taken)
            view = view[len(taken) :]
            if filled == part_bytes(number):
                parts += part.digest()
                filled, part, number = 0, sha256(usedforsecurity=False), number + 1
    if not parts:
        return total, b64encode(part.digest()).decode()
    if filled:
        parts += part.digest()
    return total, f"{_digest(parts)}-{len(parts) // 32}"


def _digest(data: bytes | bytearray) -> str:
    return b64encode(sha256(data, usedforsecurity=False).digest()).decode()

"""SHA256SUMS: the commit point of a backup, in the format of ``sha256sum -c``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgbackup.domain.errors import RefusedError

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\x00\n\\]+)")


def format_sums(digests: Mapping[str, str]) -> bytes:
    """Write one line a file, sorted by name."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def parse_sums(text: bytes, *, source: str) -> dict[str, str]:
    """Read name -> digest; raises RefusedError for anything that format_sums would not have written."""
    digests: dict[str, str] = {}
    for line in text.decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise RefusedError(f"{source} is damaged", detail=repr(line[:120]))
        digests[match[2]] = match[1]
    if not digests or format_sums(digests) != text:
        raise RefusedError(f"{source} is damaged", detail="not in canonical form")
    return digests

"""Take secrets out of what programs and drivers print, before anybody keeps or shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
# A value in quotes may have spaces, doubled or escaped quotes, and no end (the line was cut).
_VALUE = r"""'(?:[^'\\]|\\.|'')*(?:'|\\?$)|"(?:[^"\\]|\\.|"")*(?:"|\\?$)"""
_PATTERNS = (
    re.compile(rf"(?i)(\b[a-z_]*(?:password|passphrase|secret|token)[a-z_]*(?:\s*[=:]\s*|\s+(?=['\"])))({_VALUE}|\S+)"),
    re.compile(r"(\w+://[^\s:/@]*:)(\S+)(?=@)"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask the given secrets, ``password=…`` of any spelling and passwords inside URIs.

    >>> redact("connection to postgresql://app:hunter2@db/x failed, password='a b'")
    'connection to postgresql://app:***@db/x failed, password=***'
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text

"""How findings are made: what is wrong under one name is counted whole, and listed in part."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.model import Finding, Severity

log = logging.getLogger(__name__)

_LISTED = 5


class Wrong:
    """Collects what contradicts one finding; memory does not grow with it."""

    def __init__(self, name: str, hint: str, severity: Severity = Severity.FAILURE) -> None:
        self._name = name
        self._hint = hint
        self._severity = severity
        self._some: list[str] = []
        self._count = 0

    def add(self, what: str) -> None:
        """Note one more."""
        self._count += 1
        if len(self._some) < _LISTED:
            self._some.append(what)

    def finding(self, detail: str = "", *, seconds: float = 0.0) -> Finding:
        """Return the finding; ``detail`` says what was looked at."""
        more = [f"and {self._count - _LISTED} more"] if self._count > _LISTED else []
        text = "; ".join(filter(None, ["; ".join([*self._some, *more]), detail]))
        return judged(self._name, not self._count, text, self._hint, severity=self._severity, seconds=seconds)


def judged(
    name: str, ok: bool, detail: str, hint: str, *, severity: Severity = Severity.FAILURE, seconds: float = 0.0
) -> Finding:
    """Make a finding; a hint is for what does not hold."""
    return Finding(name, ok, round(seconds, 3), detail, "" if ok else hint, severity)


def unknown(name: str, reason: str, hint: str, *, must: bool = False) -> Finding:
    """Make a finding of what nobody told; a failure where it ``must`` be known."""
    return Finding(name, False, 0.0, f"not known: {reason}", hint, Severity.FAILURE if must else Severity.UNKNOWN)


def part(
    name: str, look: Callable[[], Iterable[Finding]], severity: Severity = Severity.FAILURE
) -> tuple[Finding, ...]:
    """Take one part of an audit; what cannot be looked at is a finding with this name, and hides no other part."""
    started = time.monotonic()
    try:
        return tuple(look())
    except PgBackupError as error:
        detail = ": ".join(filter(None, (error.message, error.detail)))
        log.info("%s: cannot be told: %s", name, detail)
        return (Finding(name, False, round(time.monotonic() - started, 3), detail, error.hint or "", severity),)

"""The error tree. A branch says whether trying again can help; a leaf says whose fault it is.

Messages follow PostgreSQL's style: what went wrong in lower case, the values in ``detail``, the next action in
``hint``. They are shown to people and kept in the catalog, so they never hold a secret.
"""

from __future__ import annotations

from typing import ClassVar

_ENDED_BY_SOMEBODY = frozenset({-1, -2, -9, -15})  # SIGHUP, SIGINT, SIGKILL, SIGTERM; not those for its own faults


class PgBackupError(Exception):
    """Whatever this package raises on purpose; ``exit_code`` is the command line's (70: a bug of ours)."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, detail, hint)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        if self.detail:
            parts.append(f"DETAIL: {self.detail}")
        if self.hint:
            parts.append(f"HINT: {self.hint}")
        return "\n".join(parts)


class PermanentError(PgBackupError):
    """Trying again without a change by somebody gives the same result."""


class TransientError(PgBackupError):
    """Trying again later may succeed."""


class ConfigurationError(PermanentError):
    """The configuration or the request is wrong."""

    exit_code = 2


class RefusedError(PermanentError):
    """The answer is no: rejected, not recoverable, a gap."""

    exit_code = 1


class UnfitError(PermanentError):
    """The environment cannot do it as it is: a right, a key, a package, a version is missing."""

    exit_code = 3


class WrongKeyError(UnfitError):
    """None of our private keys is among a backup's recipients."""


class UnavailableError(TransientError):
    """The environment does not answer now: server, storage or network."""

    exit_code = 3


class BusyError(TransientError):
    """Somebody else holds what is needed; try again later."""

    exit_code = 75


class ProgramFailed(UnavailableError):  # noqa: N818 - reads as what happened
    """A client program ended with a status other than 0. ``stderr`` is redacted."""

    def __init__(self, program: str, status: int, stderr: str, *, hint: str | None = None) -> None:
        ending = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
        super().__init__(f"{program} {ending}", detail=stderr.strip()[-4000:] or None, hint=hint)
        self.program = program
        self.status = status
        self.stderr = stderr

    @property
    def by_signal(self) -> bool:
        """Somebody ended it (the machine ran out of memory, the run was stopped): that says nothing about its input."""
        return self.status in _ENDED_BY_SOMEBODY

    @property
    def by_machine(self) -> bool:
        """It was ended, or found no space: that says nothing about what it read."""
        return self.by_signal or "No space left" in self.stderr

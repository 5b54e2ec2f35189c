"""Whether a repository can be used: asked by ``doctor``, before a night has to find out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from pgbackup.domain.errors import PgBackupError, RefusedError
from pgbackup.domain.findings import Answer, timed
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Store

_PROBE = "probe/"


def check_repository(store: Store) -> tuple[Finding, ...]:
    """List a repository, then write a small object, read it, delete it; never raises for what it finds.

    Where objects are locked, the probe's bytes stay for as long as the lock says, as a deleted object's do.
    """
    answers = _ask("answers", lambda: _listed(store))
    return (answers, _ask("can be written, read and deleted", lambda: _tried(store))) if answers.ok else (answers,)


def _listed(store: Store) -> Answer:
    next(store.list(_PROBE), None)
    free = store.free_bytes()
    return True, "" if free is None else f"{free / 1e9:.1f} GB free", ""


def _tried(store: Store) -> Answer:
    key, data = f"{_PROBE}{secrets.token_hex(8)}", secrets.token_bytes(64)
    with store.create(key) as sink:
        sink.write(data)
    try:
        same = store.read(key) == data
    finally:
        store.delete(key)
    if not same:
        raise RefusedError("what was read is not what was written", hint="do not trust this storage")
    return True, "", ""


def _ask(name: str, check: Callable[[], Answer]) -> Finding:
    def answer() -> Answer:
        try:
            return check()
        except PgBackupError as error:
            return False, ": ".join(filter(None, (error.message, error.detail))), error.hint or ""

    return timed(name, answer, clock=time.monotonic)

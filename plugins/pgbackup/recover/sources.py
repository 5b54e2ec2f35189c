"""Which repository a recovery reads from, and which others it turns to for what cannot be read there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pgbackup.domain.errors import (
    ConfigurationError,
    PgBackupError,
    ProgramFailed,
    RefusedError,
    UnavailableError,
    UnfitError,
)
from pgbackup.domain.ids import BackupId
from pgbackup.domain.ports import Site, Store
from pgbackup.restore.fetch import Description, describe_copy

log = logging.getLogger(__name__)

_T = TypeVar("_T")

BEST = "best"
"""What forms call no repository in particular."""


def best(
    site: Site,
    repository: str | None,
    ask: Callable[[Store], _T],
    key: Callable[[_T], Any],
    *,
    wanted: str,
    all_at_once: bool = False,
) -> tuple[_T, Mapping[str, PgBackupError]]:
    """Return what a repository answers, and what those that were asked before it had against it.

    The named one is asked alone; otherwise the local one, and where that refuses all others side by side, of whose
    answers the one with the greatest ``key`` is taken: of all of them when they are asked ``all_at_once``. Raises the
    only one's error, else one that names them all.
    """
    local = site.local.name
    others = [name for name in site.repositories if name != local]
    rounds = [[repository]] if repository is not None else [[local, *others]] if all_at_once else [[local], others]
    refused: dict[str, PgBackupError] = {}
    for names in filter(None, rounds):
        answers = _asked(site, names, ask, refused)
        if answers:
            for name, error in refused.items():
                log.warning("not from %s: %s", name, error.message)
            return max(answers, key=key), refused
    raise _refusal(refused, f"no repository {wanted}")


def _asked(site: Site, names: Sequence[str], ask: Callable[[Store], _T], refused: dict[str, PgBackupError]) -> list[_T]:
    def answer(name: str) -> _T | PgBackupError:
        try:
            return ask(_store(site, name))
        except ConfigurationError:
            raise
        except PgBackupError as error:
            return error

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        found = dict(zip(names, pool.map(answer, names), strict=True))
    refused.update({name: error for name, error in found.items() if isinstance(error, PgBackupError)})
    return [one for one in found.values() if not isinstance(one, PgBackupError)]


def _store(site: Site, name: str) -> Store:
    if name not in site.repositories:
        raise ConfigurationError(f"no repository {name!r}", detail=", ".join(site.repositories))
    return site.repositories[name]


def _refusal(refused: Mapping[str, PgBackupError], message: str) -> PgBackupError:
    """Return one error for those of several repositories; it says no only when all of them do."""
    errors = list(refused.values())
    if len(errors) == 1:
        return errors[0]
    kinds = (UnavailableError, UnfitError, RefusedError)
    kind = next(kind for kind in kinds if kind is RefusedError or any(isinstance(one, kind) for one in errors))
    return kind(
        message,
        detail="\n".join(f"{name}: {told(error)}" for name, error in refused.items()),
        hint=next((one.hint for one in errors if isinstance(one, kind) and one.hint), None),
    )


def told(error: PgBackupError) -> str:
    """Return an error as a part of a sentence."""
    return ": ".join(filter(None, (error.message, error.detail)))


def anywhere(site: Site, names: Sequence[str], read: Callable[[Store], _T]) -> _T:
    """Return what is read in the first of these repositories in which it can be.

    ``read`` compares it with what has to be there. Raises the only one's error, else one that names them all.
    """
    failed: dict[str, PgBackupError] = {}
    for name in names:
        try:
            return read(_store(site, name))
        except ProgramFailed:
            raise
        except PgBackupError as error:
            failed[name] = error
            if len(failed) < len(names):
                log.warning("repository %s: %s; another one is read", name, told(error))
    raise _refusal(failed, "no repository can be read as it has to be")


def describe_anywhere(site: Site, names: Sequence[str], backup_id: str) -> Description:
    """Return a backup's manifest and checksums from the first of these repositories that holds them undamaged."""
    return anywhere(site, names, lambda store: describe_copy(site, store, BackupId.parse(backup_id)))

"""Listings of repositories read side by side, never held whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.model import Kind, ObjectInfo
from pgbackup.domain.ports import Store

_END: tuple[BackupId | None, frozenset[str]] = (None, frozenset())


def absent(wanted: Iterable[ObjectInfo], held: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Yield what is wanted and not held; both come in key order, and are read no further than needed."""
    rest = iter(held)
    one = next(rest, None)
    for info in wanted:
        while one is not None and one.key < info.key:
            one = next(rest, None)
        if one is None or one.key != info.key:
            yield info


def lacking(source: Store, target: Store, cluster: str) -> Iterator[tuple[BackupId, frozenset[str]]]:
    """Yield each whole backup of a repository of which another lacks objects, with their names; oldest of a kind first.

    One listing of each repository and kind.
    """
    for kind in Kind:
        there = _names(target, kind, cluster)
        other, held = next(there, _END)
        for backup_id, names in _names(source, kind, cluster):
            while other is not None and other < backup_id:
                other, held = next(there, _END)
            missing = names - held if other == backup_id else names
            if missing and SUMS in names:
                yield backup_id, missing


def folders(store: Store, kind: Kind, cluster: str) -> Iterator[tuple[BackupId, tuple[ObjectInfo, ...]]]:
    """List a cluster's backups, whole or not, oldest first, each with its objects."""
    found = store.list(f"{kind.value}/{cluster}_")
    for name, objects in itertools.groupby(found, key=lambda info: info.key.split("/")[1]):
        try:
            backup_id = BackupId.parse(name)
        except ConfigurationError:
            continue
        if (backup_id.cluster, backup_id.kind) == (cluster, kind):
            yield backup_id, tuple(objects)


def _names(store: Store, kind: Kind, cluster: str) -> Iterator[tuple[BackupId, frozenset[str]]]:
    for backup_id, objects in folders(store, kind, cluster):
        yield backup_id, frozenset(info.key.removeprefix(backup_id.key("")) for info in objects)

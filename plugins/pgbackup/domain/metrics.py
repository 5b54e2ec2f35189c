"""Metrics: what is measured, and the text in which Prometheus reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

METRICS = MappingProxyType(
    {
        "pgbackup_rpo_seconds": "What would be lost if the server were gone now, in time.",
        "pgbackup_rpo_objective_seconds": "How much may be lost.",
        "pgbackup_rto_objective_seconds": "How long a recovery may take.",
        "pgbackup_rto_predicted_seconds": "How long a recovery to the newest moment would take, from measured rates.",
        "pgbackup_drill_rto_seconds": "How long the last drill of a scenario took.",
        "pgbackup_drill_rpo_seconds": "How much the last drill of a scenario would have lost.",
        "pgbackup_drill_ok": "1 if the last drill of a scenario held.",
        "pgbackup_drill_age_seconds": "How long ago the last drill of a scenario began.",
        "pgbackup_backup_age_seconds": "Age of the newest captured backup, by its snapshot.",
        "pgbackup_verified_backup_age_seconds": "Age of the newest verified backup, by its snapshot.",
        "pgbackup_backup_bytes": "Stored bytes of the newest backup.",
        "pgbackup_backup_seconds": "How long the newest backup took.",
        "pgbackup_database_bytes": "Size of the databases in the newest backup.",
        "pgbackup_backups": "Backups that the catalog knows, by kind and state.",
        "pgbackup_copies": "Sound copies in a repository.",
        "pgbackup_copies_bytes": "Stored bytes of the sound copies in a repository.",
        "pgbackup_copies_missing": "Backups, of those that are in any repository, that this one does not hold.",
        "pgbackup_wal_copy_lag_seconds": "How far a repository is behind with the WAL.",
        "pgbackup_wal_retained_bytes": "WAL that the server keeps because it is not archived.",
        "pgbackup_wal_lag_seconds": "For how long finished WAL has waited for the archive.",
        "pgbackup_wal_gaps": "Gaps in the WAL archive.",
        "pgbackup_repository_free_bytes": "Space left in the local repository.",
        "pgbackup_finding_ok": "1 if a finding of the watch holds.",
        "pgbackup_messages_unsent": "Mails and other messages that could not be sent, and are kept.",
        "pgbackup_watch_timestamp_seconds": "When the watch looked, in Unix time.",
    }
)
"""Every metric, all of them gauges, with what it says."""


@dataclass(frozen=True, order=True)
class Sample:
    """One measured value; ``labels`` are pairs of name and value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


def sample(name: str, value: float, **labels: str) -> Sample:
    """Make a sample of a metric that METRICS has."""
    if name not in METRICS:
        raise KeyError(name)
    return Sample(name, tuple(labels.items()), float(value))


def exposition(samples: Iterable[Sample]) -> str:
    """Return the text format of Prometheus, version 0.0.4: one group a metric, each with its help."""
    lines = []
    for name, group in groupby(sorted(set(samples)), key=lambda one: one.name):
        lines += [f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge"]
        for one in group:
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in one.labels)
            lines.append(f"{name}{{{labels}}} {one.value!r}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

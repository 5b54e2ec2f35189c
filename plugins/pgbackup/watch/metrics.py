"""What a look measures, as metrics."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from pgbackup.domain.drill import Drill, Scenario
from pgbackup.domain.errors import PgBackupError
from pgbackup.domain.metrics import Sample, sample
from pgbackup.domain.model import Backup, CopyState, Finding, Kind, State, WalCopy
from pgbackup.domain.ports import Site
from pgbackup.domain.usual import COUNTED
from pgbackup.watch.archive import ArchiveState
from pgbackup.watch.archiver import Archiving
from pgbackup.watch.receiver import Streaming

_SOUND = frozenset({CopyState.STORED, CopyState.VERIFIED})


def observed(site: Site, server: Streaming | Archiving | None, archive: ArchiveState | None) -> dict[str, float]:
    """Return what the server, the archive and the disk say as numbers, by metric; what is not known is left out."""
    retained = None
    if isinstance(server, Archiving):
        retained = server.retained
    elif server is not None:
        retained = (server.slot.retained_bytes if server.slot else None) or 0
    numbers = {
        "pgbackup_wal_retained_bytes": retained,
        "pgbackup_wal_gaps": len(archive.gaps) if archive else None,
        "pgbackup_repository_free_bytes": site.local.free_bytes(),
    }
    return {name: float(number) for name, number in numbers.items() if number is not None}


def measured(
    site: Site,
    cluster: str,
    numbers: Mapping[str, float],
    backups: Sequence[Backup] | None,
    findings: Iterable[Finding],
) -> tuple[Sample, ...]:
    """Return all samples of one look; without a catalog (``backups`` is None) those that need none."""
    now, objectives = site.clock(), site.settings.objectives
    found = [sample(name, number, cluster=cluster) for name, number in numbers.items()]
    found += [
        sample("pgbackup_rpo_objective_seconds", objectives.rpo.total_seconds(), cluster=cluster),
        sample("pgbackup_rto_objective_seconds", objectives.rto.total_seconds(), cluster=cluster),
        sample("pgbackup_watch_timestamp_seconds", now.timestamp(), cluster=cluster),
    ]
    found += [sample("pgbackup_finding_ok", one.ok, cluster=cluster, finding=one.name) for one in findings]
    if backups is not None:
        with contextlib.suppress(PgBackupError):  # it answered a moment ago; the next look has them again
            found += _of_backups(backups, cluster, now)
            found += _of_copies(backups, site.catalog.wal_copies(cluster), tuple(site.repositories), cluster, now)
            found += _of_drills(site.catalog.drills(cluster), cluster, now)
            unsent = sum(one.message.cluster == cluster for one in site.catalog.unsent())
            found.append(sample("pgbackup_messages_unsent", unsent, cluster=cluster))
            prospect = site.catalog.prospect(cluster)
            if prospect and prospect.predicted_seconds is not None:
                seconds = prospect.predicted_seconds
                found.append(sample("pgbackup_rto_predicted_seconds", seconds, cluster=cluster))
    return tuple(sorted(found))


def _of_backups(backups: Sequence[Backup], cluster: str, now: datetime) -> Iterator[Sample]:
    for (kind, state), count in Counter((one.kind, one.state) for one in backups).items():
        yield sample("pgbackup_backups", count, cluster=cluster, kind=kind.value, state=state.value)
    for kind in Kind:
        own = {"cluster": cluster, "kind": kind.value}
        captured = [one for one in backups if one.kind is kind and one.state in COUNTED and one.backup_time]
        verified = [one for one in captured if one.state is State.VERIFIED]
        for name, ones in (("backup", captured), ("verified_backup", verified)):
            moments = [one.backup_time for one in ones if one.backup_time]
            if moments:
                yield sample(f"pgbackup_{name}_age_seconds", (now - max(moments)).total_seconds(), **own)
        if captured:
            newest = captured[0]
            seconds = ((newest.finished_at or newest.started_at) - newest.started_at).total_seconds()
            yield sample("pgbackup_backup_bytes", newest.bytes or 0, **own)
            yield sample("pgbackup_backup_seconds", seconds, **own)
            yield sample("pgbackup_database_bytes", newest.database_bytes or 0, **own)


def _of_copies(
    backups: Sequence[Backup], wal: Iterable[WalCopy], repositories: Sequence[str], cluster: str, now: datetime
) -> Iterator[Sample]:
    live = [one for one in backups if one.state in {State.CAPTURED, State.VERIFIED}]
    for name in repositories:
        own = {"cluster": cluster, "repository": name}
        there = [one for one in live if any((c.repository, c.state in _SOUND) == (name, True) for c in one.copies)]
        yield sample("pgbackup_copies", len(there), **own)
        yield sample("pgbackup_copies_bytes", sum(one.bytes or 0 for one in there), **own)
        yield sample("pgbackup_copies_missing", len(live) - len(there), **own)
    for copied in wal:
        if copied.whole_at and copied.repository in repositories:
            late = (now - copied.whole_at).total_seconds()
            yield sample("pgbackup_wal_copy_lag_seconds", late, cluster=cluster, repository=copied.repository)


def _of_drills(drills: Sequence[Drill], cluster: str, now: datetime) -> Iterator[Sample]:
    for scenario in Scenario:
        newest = next((one for one in drills if one.scenario is scenario), None)
        if newest is None:
            continue
        own = {"cluster": cluster, "scenario": scenario.value}
        yield sample("pgbackup_drill_rto_seconds", newest.rto_seconds, **own)
        yield sample("pgbackup_drill_ok", newest.ok, **own)
        yield sample("pgbackup_drill_age_seconds", (now - newest.started_at).total_seconds(), **own)
        if newest.rpo_seconds is not None:
            yield sample("pgbackup_drill_rpo_seconds", newest.rpo_seconds, **own)

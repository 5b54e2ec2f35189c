"""The weekly list: were the backups taken, are their files whole, what do the logs say, were they restored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

from pgbackup.domain import review as named
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import Backup, Kind, State
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import LOCAL
from pgbackup.restore.fetch import describe_copy
from pgbackup.review.logs import errors_in
from pgbackup.watch.backups import OLDEST, drilled
from pgbackup.watch.trends import has_space, not_rejected, usual_sizes

Checks = Iterator[tuple[str, str, Callable[[], Answer]]]
"""(item, finding, check)"""

_PROOF = timedelta(hours=12)
"""A backup's verification has ended by then."""
_TURN = timedelta(days=8)
"""Each repository's copies are proved at least weekly, and a day late."""


def checks(site: Site, cluster: str, backups: Sequence[Backup], since: datetime) -> Checks:
    """What is looked at for each item; ``backups`` come newest first."""
    settings, now = site.settings.cluster(cluster), site.clock()
    recent = [one for one in backups if one.started_at >= since]
    for kind in (Kind.FULL, Kind.BASE) if settings.full_backup.base else (Kind.FULL,):
        yield (
            named.COMPLETION,
            f"a verified {kind} backup every day",
            partial(daily, backups, kind, since, now, cluster),
        )
    yield named.COMPLETION, "no capture failed", partial(_captures, recent, cluster)
    yield named.SIZES, "stored files have the sizes of their manifests", partial(_file_sizes, site, recent)
    yield named.SIZES, "sizes are usual", partial(usual_sizes, backups, settings.sizes, cluster)
    yield named.SIZES, "there is space", lambda: has_space(backups, site.local.free_bytes())
    yield named.LOGS, "no error is in the logs", partial(errors_in, site.settings.paths.logs, cluster, since)
    yield named.LOGS, "every verification came to a verdict", partial(_verdicts, site, recent, cluster)
    yield named.RESTORATION, "every backup was restored and compared", partial(_restored, recent, now, cluster)
    yield named.RESTORATION, "no newest backup is rejected", partial(not_rejected, backups, cluster)
    for repository in site.repositories:
        check = partial(_proved_in, repository, backups, now, cluster)
        yield named.RESTORATION, f"a copy in {repository} was restored this week", check
    yield named.RESTORATION, "each recovery was drilled lately", partial(drilled, site, cluster)


def daily(backups: Sequence[Backup], kind: Kind, since: datetime, now: datetime, cluster: str) -> Answer:
    """Between two verified backups of a kind there is a night and a bit at most; a new cluster's week begins later."""
    own = [one for one in backups if one.kind is kind]
    began = max(since, min((one.started_at for one in own), default=now))
    verified = {one.backup_time for one in own if one.state in {State.VERIFIED, State.EXPIRED} and one.backup_time}
    moments = sorted(moment for moment in verified if moment >= began - OLDEST)
    inside = sum(moment >= began for moment in moments)
    marks = [*(moments if moments and moments[0] <= began else [began, *moments]), now]
    holes = [f"{a:%a %d %H:%M} to {b:%a %d %H:%M} UTC" for a, b in pairwise(marks) if b - a > OLDEST]
    return (
        bool(own) and not holes,
        f"{inside} verified" + (f"; none from {some(holes)}" if holes else ""),
        f"look at the runs of {cluster}_full_backup and {cluster}_verify_backup of those days",
    )


def _captures(recent: Sequence[Backup], cluster: str) -> Answer:
    states = Counter(f"{one.kind} {one.state}" for one in recent)
    newest: dict[Kind, Backup] = {}
    for one in recent:
        newest.setdefault(one.kind, one)
    failed = [one for one in recent if one.state is State.FAILED]
    broken = [one for one in newest.values() if one.state is State.FAILED]
    reasons = some([f"{one.id}: {' '.join((one.error or '').split())[:120]}" for one in broken or failed], most=3)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(states.items())) or "nothing was taken"
    return (
        bool(recent) and not broken,
        f"{counts}; {reasons}" if failed else counts,
        f"open the newest run of {cluster}_full_backup or {cluster}_incremental_backup: its log says what to do",
    )


def _file_sizes(site: Site, recent: Sequence[Backup]) -> Answer:
    wrong, seen, total = [], 0, 0
    for one in recent:
        if one.state not in {State.CAPTURED, State.VERIFIED} or all(copy.repository != LOCAL for copy in one.copies):
            continue
        backup_id = BackupId.parse(one.id)
        stored = {info.key: info.bytes for info in site.local.list(f"{backup_id.directory}/")}
        for file in describe_copy(site, site.local, backup_id).manifest.files:
            seen, total = seen + 1, total + file.stored_bytes
            if stored.get(backup_id.key(file.name)) != file.stored_bytes:
                wrong.append(backup_id.key(file.name))
    hint = "`pgbackup verify ID` judges the backup; `pgbackup copy ID --from REPOSITORY --to local` brings it back"
    detail = f"{seen} files, {total / 1e6:.0f} MB"
    return not wrong, f"{detail}; missing, or of another size: {some(wrong)}" if wrong else detail, hint


def _verdicts(site: Site, recent: Sequence[Backup], cluster: str) -> Answer:
    attempts = [found for one in recent for found in site.catalog.verifications(one.id)]
    newest: dict[tuple[str, str], bool] = {}
    for one in attempts:
        if one.finished_at:
            newest.setdefault((one.backup_id, one.repository), one.verdict is None)
    undecided = [f"{backup_id} in {repository}" for (backup_id, repository), without in newest.items() if without]
    return (
        not undecided,
        f"{len(attempts)} verifications" + (f"; without a verdict: {some(undecided)}" if undecided else ""),
        f"`pgbackup show ID` says why: space, a key, an extension; {cluster}_verify_backup tries again each morning",
    )


def _restored(recent: Sequence[Backup], now: datetime, cluster: str) -> Answer:
    ended = [one for one in recent if one.finished_at and now - one.finished_at > _PROOF]
    waiting = [one.id for one in ended if one.state is State.CAPTURED]
    verified = sum(one.state is State.VERIFIED for one in recent)
    return (
        not waiting,
        f"{verified} of {len(recent)} verified" + (f"; nobody has judged {some(waiting)}" if waiting else ""),
        f"run {cluster}_verify_backup, or `pgbackup verify ID`",
    )


def _proved_in(repository: str, backups: Sequence[Backup], now: datetime, cluster: str) -> Answer:
    copies = [copy for one in backups for copy in one.copies if copy.repository == repository]
    newest = max((copy.verified_at for copy in copies if copy.verified_at), default=None)
    first = min((copy.stored_at for copy in copies), default=now)
    ok = now - (newest or first) <= _TURN
    detail = f"the last one {newest:%Y-%m-%d %H:%M} UTC" if newest else f"none yet, of {len(copies)} copies"
    return ok, detail, f"run {cluster}_verify_backup: it proves one more copy of each repository each morning"

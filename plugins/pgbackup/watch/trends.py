"""What changes slowly, or quietly: sizes, durations, verdicts, the space for the next days, the way that alerts go."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from pgbackup.domain.findings import Answer, some
from pgbackup.domain.manifest import ADOPTED
from pgbackup.domain.model import Backup, CopyState, Kind, State, Unsent, Watched
from pgbackup.domain.settings import LOCAL, Cluster, Settings, Sizes
from pgbackup.domain.usual import COUNTED, Size, comparable, usual
from pgbackup.watch.text import megabytes, span

_DAYS = 2
"""Space is wanted for so many days: enough to act before a backup is refused."""
_DAILY = {Kind.FULL: 1, Kind.BASE: 1, Kind.INCREMENTAL: 4}

_ODD = (
    "smaller: is data missing at the source? compare the tables' rows with an older backup before that one expires"
    " (`pgbackup hold add`); larger: look for a new or a bloated table;"
    " `pgbackup review weekly --cluster {cluster}` shows the tables' sizes"
)
_LATE = (
    "look at the task's log of {cluster}_full_backup or {cluster}_incremental_backup: bytes and rate of each stage; a"
    " lock (pg_locks), a slow disk or a busy server; one that was killed stays so until the next one"
)
_REJECTED = (
    "`pgbackup show {first}` says what did not hold; a rejected one needs a new one now (the DAG {cluster}_full_backup,"
    " or `pgbackup backup full --verify`), a damaged copy is brought back by"
    " `pgbackup copy ID --from REPOSITORY --to local`"
)
_FULL = (
    "free space, let paths.backups point to a larger disk, or shorten `retention`; `pgbackup plan-rotation` shows what"
    " stays and why"
)
_HEARD = timedelta(minutes=20)
"""A run tells when it has ended; four of them have by then."""
_UNHEARD = (
    "Airflow's DAG processor sends: its log of wal_watch says what stops it; it needs PGBACKUP_CONFIG and the"
    " connections of catalog, mail and notifiers"
)
_UNSENT = (
    "repair the mail server, or the connection that `mail.airflow_conn_id` or a notifier names; what is kept is sent by"
    " the next watch"
)


def sized(backups: Sequence[Backup], sizes: Sizes) -> dict[str, Size]:
    """Judge the newest backup of each kind by those before it; by id. ``backups`` come newest first."""
    found = {}
    for newest in _newest((one for one in backups if one.state in COUNTED and one.backup_time and one.bytes), _series):
        captures = comparable(backups, newest.kind, newest.method)
        found[newest.id] = usual(captures, deviation=sizes.deviation, floor=sizes.floor, history=sizes.history)
    return found


def usual_sizes(backups: Sequence[Backup], sizes: Sizes, cluster: str) -> Answer:
    """The newest backup of each kind is as large as comparable ones: no table has quietly gone."""
    found = sized(backups, sizes)
    odd = {backup_id: size for backup_id, size in found.items() if not size.ok}
    described = "; ".join(f"{one}: {size_text(size)}" for one, size in (odd or found).items())
    return not odd, described or "no backups yet", _ODD.format(cluster=cluster)


def in_time(backups: Sequence[Backup], settings: Cluster, now: datetime, cluster: str) -> Answer:
    """The newest backup of each kind did not take longer than it may, nor does one that still runs."""
    late, details = False, []
    own = (one for one in backups if one.method != ADOPTED and one.state is not State.FAILED)
    for one in _newest(own, _kind):
        allowed = (settings.incremental_backup if one.kind is Kind.INCREMENTAL else settings.full_backup).due
        runs = one.state is State.RUNNING
        took = (now if runs else one.finished_at or one.started_at) - one.started_at
        late = late or took > allowed
        details.append(f"{one.id} {'runs for' if runs else 'took'} {span(took)}, {span(allowed)} allowed")
    return not late, "; ".join(details) or "no backups yet", _LATE.format(cluster=cluster)


def not_rejected(backups: Sequence[Backup], cluster: str) -> Answer:
    """Of each kind, the newest backup with a verdict was verified, and no local copy of what counts is damaged."""
    judged = _newest((one for one in backups if one.state in {State.VERIFIED, State.REJECTED}), _kind)
    rejected = [one.id for one in judged if one.state is State.REJECTED]
    damaged = [
        one.id
        for one in backups
        if one.state is State.VERIFIED
        and any((copy.repository, copy.state) == (LOCAL, CopyState.DAMAGED) for copy in one.copies)
    ]
    parts = [f"rejected: {some(rejected)}"] * bool(rejected) + [f"damaged here: {some(damaged)}"] * bool(damaged)
    first = (rejected or damaged or ["ID"])[0]
    return not parts, "; ".join(parts), _REJECTED.format(cluster=cluster, first=first)


def has_space(backups: Sequence[Backup], free: int | None) -> Answer:
    """The local repository has room for what the next days bring, by the newest backup of each kind."""
    newest = _newest((one for one in backups if one.bytes and one.state in COUNTED), _kind)
    wanted = _DAYS * sum((one.bytes or 0) * _DAILY[one.kind] for one in newest)
    has = "no limit known" if free is None else f"{megabytes(free)} free"
    detail = f"{has}, {megabytes(wanted)} wanted for the backups of the next {_DAYS} days"
    return free is None or free >= wanted, detail, _FULL


def mails_go_out(unsent: Sequence[Unsent], clusters: Iterable[str], cluster: str) -> Answer:
    """No message is kept because it could not be sent; those of clusters that are gone count for every other one."""
    known = set(clusters)
    waiting = [one for one in unsent if one.message.cluster == cluster or one.message.cluster not in known]
    if not waiting:
        return True, "", ""
    channels = some(sorted({one.channel for one in waiting}))
    since = f"{waiting[0].kept_at:%Y-%m-%d %H:%M} UTC"
    return False, f"{len(waiting)} kept since {since}, for {channels}: {waiting[-1].error}", _UNSENT


def changes_are_told(watched: Sequence[Watched], settings: Settings, now: datetime) -> Answer:
    """What earlier runs found has been told by now, or was kept to be sent; where no way is configured, nobody is."""
    late = [one.name for one in watched if one.is_news and now - one.since - one.settles > _HEARD]
    if not late or not (settings.mail or settings.notifiers):
        return True, "", ""
    return False, f"for more than {span(_HEARD)} nobody was told of: {some(late)}", _UNHEARD


def size_text(size: Size) -> str:
    """Say how large a backup is, and what would be usual."""
    if size.median is None:
        return f"{megabytes(size.bytes)}, {size.count} comparable backups: too few to say what is usual"
    low, high = megabytes(max(size.low, 0)), megabytes(size.high)
    deviation = f"{megabytes(size.bytes)}, {size.deviation:+.0%}"
    return f"{deviation}; usual: {low} to {high}, by {size.count} comparable backups"


def _newest(backups: Iterable[Backup], group: Callable[[Backup], Hashable]) -> Iterator[Backup]:
    """Return the first of each group; backups come newest first."""
    seen = set()
    for one in backups:
        if group(one) not in seen:
            seen.add(group(one))
            yield one


def _kind(backup: Backup) -> Kind:
    return backup.kind


def _series(backup: Backup) -> tuple[Kind, str | None]:
    return backup.kind, backup.method

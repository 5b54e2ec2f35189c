"""The monthly list: do the rules keep what they should, is it everywhere, can people act, does the plan still hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from pgbackup.domain import review as named
from pgbackup.domain.drill import Scenario
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.ids import RECOVERY
from pgbackup.domain.model import Backup, CopyState, State
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Retention, Settings
from pgbackup.review.weekly import Checks
from pgbackup.rotate import plan
from pgbackup.watch.backups import drilled
from pgbackup.watch.text import megabytes, span

_ROLES = ("Database Administrator", "System Administrator", "Backup Service Provider")
"""The protocol's emergency contacts."""
_COPIES = 3
"""The protocol's copies, in different regions."""
_OLD = timedelta(days=31)
_SOUND = frozenset({CopyState.STORED, CopyState.VERIFIED})


def checks(site: Site, cluster: str, backups: Sequence[Backup], since: datetime) -> Checks:
    """What is looked at for each item."""
    settings, now = site.settings, site.clock()
    rules = settings.cluster(cluster).retention
    yield named.RETENTION, "the rules keep what the protocol asks for", partial(_rules, rules)
    for repository in site.repositories:
        yield named.RETENTION, f"the rules are applied in {repository}", partial(_applied, site, cluster, repository)
    yield named.ARCHIVE, "old backups are in every repository", partial(_archived, site, backups, now)
    for repository in site.repositories:
        check = partial(_sheet, site, repository, now)
        yield named.PROCEDURES, f"a recovery sheet is in {repository}", check
    yield named.PROCEDURES, "somebody can be called", partial(_contacts, settings)
    yield named.PROCEDURES, "somebody hears of failures", partial(_heard, settings)
    yield named.DISASTER, "recovery time is within the objective", partial(_rto, site, cluster)
    yield named.DISASTER, "possible loss is within the objective", partial(_rpo, site, cluster)
    yield named.DISASTER, "each recovery was drilled lately", partial(drilled, site, cluster)
    yield named.DISASTER, "there are three copies", partial(_three, site)
    yield named.DISASTER, "incidents were learned from", partial(_incidents, settings, cluster, since)


def _rules(rules: Retention) -> Answer:
    wanted = Retention()  # its defaults are the protocol's
    short = [
        f"{name} is {getattr(rules, name)}, the protocol has {least}"
        for name, least in (
            (name, getattr(wanted, name)) for name in ("daily", "weekly", "monthly", "incremental", "window")
        )
        if getattr(rules, name) < least
    ]
    if rules.yearly is not None:
        short.append(f"yearly is {rules.yearly}, the protocol keeps them for ever")
    kept = f"daily {rules.daily.days} d, weekly {rules.weekly.days // 7} w, monthly {rules.monthly}"
    years = "for ever" if rules.yearly is None else str(rules.yearly)
    detail = f"{kept}, yearly {years}, incrementals {rules.incremental.days} d, window {rules.window.days} d"
    return not short, "; ".join((detail, *short)), "agree on it with who owns the protocol, or change `retention`"


def _applied(site: Site, cluster: str, repository: str) -> Answer:
    planned = plan(site, cluster, repository)
    rules = Counter(rule.partition(" ")[0].rstrip(":") for fate in planned.fates for rule in fate.rules)
    counts = ", ".join(f"{count} by {rule}" for rule, count in rules.most_common(6)) or "nothing is there"
    going = len(planned.going)
    detail = f"{counts}; {going} go with the next rotation, {megabytes(planned.bytes)}"
    problems = some(planned.problems, most=3)
    hint = "`pgbackup plan-rotation` shows each backup and its rules"
    return not planned.problems, f"{detail}; {problems}" if planned.problems else detail, hint


def _archived(site: Site, backups: Sequence[Backup], now: datetime) -> Answer:
    old = [one for one in backups if one.state is State.VERIFIED and one.backup_time and now - one.backup_time > _OLD]
    lacking = [
        f"{one.id} in {name}"
        for one in old
        for name in site.repositories
        if not any((copy.repository, copy.state in _SOUND) == (name, True) for copy in one.copies)
    ]
    size = megabytes(sum(one.bytes or 0 for one in old))
    detail = f"{len(old)} verified backups are older than a month, {size}"
    hint = "`pgbackup copy` brings what is missing: an archive is one when it is elsewhere, too"
    return not lacking, f"{detail}; missing: {some(lacking)}" if lacking else detail, hint


def _sheet(site: Site, repository: str, now: datetime) -> Answer:
    newest = max((info.modified for info in site.repositories[repository].list(RECOVERY)), default=None)
    if newest is None:
        return False, "none", "`pgbackup sheet write`: how to recover without us, and with what settings"
    return True, f"written {newest:%Y-%m-%d}, {(now - newest).days} days ago; it is renewed when anything changes", ""


def _contacts(settings: Settings) -> Answer:
    lacking = [role for role in _ROLES if role not in {one.role for one in settings.contacts}]
    named_ones = ", ".join(f"{one.role}: {one.name}" for one in settings.contacts)
    detail = "; ".join(filter(None, (named_ones, f"nobody is named for {some(lacking)}" if lacking else "")))
    return not lacking, detail, "fill in `contacts`, and call each number once"


def _heard(settings: Settings) -> Answer:
    ways = [*settings.mail.recipients] if settings.mail else []
    ways += [one.path for one in settings.notifiers]
    return bool(ways), some(ways) or "neither mail nor a notifier is configured", "fill in `mail`"


def _rto(site: Site, cluster: str) -> Answer:
    allowed, prospect = site.settings.objectives.rto, site.catalog.prospect(cluster)
    took = {one.scenario: timedelta(seconds=one.rto_seconds) for one in reversed(site.catalog.drills(cluster))}
    if prospect and prospect.predicted_seconds is not None:
        predicted = timedelta(seconds=prospect.predicted_seconds)
        details = [f"{span(predicted)} predicted for the whole server"]
    else:
        predicted, details = timedelta(0), []
    details += [f"{scenario.label} drill {span(took[scenario])}" for scenario in Scenario if scenario in took]
    ok = max((*took.values(), predicted)) <= allowed
    hint = "a newer base, block incrementals, or a nearer repository shorten it; else agree on another objective"
    return ok, f"{', '.join(details) or 'nothing was measured yet'}; {span(allowed)} allowed", hint


def _rpo(site: Site, cluster: str) -> Answer:
    allowed = site.settings.objectives.rpo
    seen = [one.value for one in site.catalog.gauges(cluster) if one.name == "pgbackup_rpo_seconds"]
    now = timedelta(seconds=seen[0]) if seen else None
    lost = [one.rpo_seconds for one in site.catalog.drills(cluster) if one.rpo_seconds is not None][:1]
    details = [f"{span(now)} when the watch looked last"] if now is not None else ["the watch has measured nothing"]
    details += [f"{span(timedelta(seconds=seconds))} in the last drill" for seconds in lost]
    ok = all(timedelta(seconds=seconds) <= allowed for seconds in (*seen, *lost))
    return ok, f"{', '.join(details)}; {span(allowed)} allowed", f"look at {cluster}_wal_watch"


def _three(site: Site) -> Answer:
    places = list(site.repositories)
    hint = "configure more `repositories`, in other regions"
    return len(places) >= _COPIES, ", ".join(places), hint


def _incidents(settings: Settings, cluster: str, since: datetime) -> Answer:
    folders = settings.paths.incidents_folder.glob(f"{cluster}_*")
    names = [path.name for path in folders if path.stat().st_mtime >= since.timestamp()]
    return True, f"{len(names)} disaster recoveries: {some(sorted(names))}" if names else "no disaster recovery", ""

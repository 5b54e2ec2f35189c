"""Recover a cluster beside what is there: a data directory that appears at its place when it is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan, Step
from pgbackup.domain.target import Target
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.recover.planning import plan as plan_recovery
from pgbackup.recover.replay import Replayed, parse_replayed, replay, replayed_json
from pgbackup.recover.settle import give_back_configuration, keep_configuration, start, sync
from pgbackup.recover.sources import anywhere, describe_anywhere
from pgbackup.recover.stage import stage_wal
from pgbackup.recover.workplace import Workplace, workplace, write_whole
from pgbackup.restore.chain import Link, fetch_links, unpack_chain
from pgbackup.restore.fitness import refuse_unfit
from pgbackup.restore.holds import leased
from pgbackup.restore.isolated import server_for

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Recovered:
    """A cluster that was recovered into ``folder``; ``steps`` are those of this run, measured."""

    plan: RecoveryPlan
    folder: Path
    replayed: Replayed
    steps: tuple[Step, ...]
    port: int | None


def recover_cluster(
    site: Site,
    cluster: str,
    target: Target,
    *,
    into: Path,
    timeline: int | None = None,
    repository: str | None = None,
    port: int | None = None,
) -> Recovered:
    """Make a data directory of a cluster at a target; with ``port``, start a server on it that outlives us.

    The directory must not exist, or be empty; until the end everything is in a folder beside it. Who repeats the call
    after a kill goes on with the same plan. Raises RefusedError, having touched nothing, when the target cannot be
    reached or the place is taken.
    """
    with workplace(into) as place:
        plan = place.plan()
        if plan is None:
            plan = plan_recovery(site, cluster, target, timeline=timeline, repository=repository)
            place.take_up(plan)
        else:
            refuse_another(place, plan, (cluster, target, repository), timeline)
            log.warning("going on with the recovery to %s that was begun in %s", plan.target, place.folder)
        recovery = Recovery(site, plan, place)
        if not (place.into.exists() and any(place.into.iterdir())):
            with leased(site, plan.repository, plan.backups, f"recovery to {plan.target}"):
                recovery.make()
        replayed = parse_replayed(place.result.read_bytes())
        if port is not None:
            recovery.measured("start", lambda: start(site, recovery.server, place.into, port))
        place.remove()
    return Recovered(plan, place.into, replayed, tuple(recovery.steps), port)


def refuse_another(
    place: Workplace, plan: RecoveryPlan, wanted: tuple[str, Target, str | None], timeline: int | None
) -> None:
    """Raise RefusedError when an unfinished recovery is not the one that is wanted: (cluster, target, repository)."""
    cluster, target, repository = wanted
    same = (plan.cluster, plan.target) == (cluster, target) and timeline in {None, plan.branch}
    if not same or repository not in {None, plan.repository}:
        raise RefusedError(
            f"{place.folder} holds an unfinished recovery of {plan.cluster} to {plan.target}",
            detail=f"from {plan.repository}, timeline {plan.branch}",
            hint=f"repeat it with that target to go on, or drop it: rm -r {place.folder}",
        )


@dataclass
class Recovery:
    """One recovery under way; each step can be done again."""

    site: Site
    plan: RecoveryPlan
    place: Workplace
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last = last_manifest(self.site, self.plan)
        self.server: ThrowAwayServer = server_for(self.site, self.last, self.place.server)

    @property
    def jobs(self) -> int:
        """How much is done at the same time."""
        return self.site.settings.cluster(self.plan.cluster).verify_backup.jobs

    def make(self) -> None:
        """Do what is not done yet, up to the complete data directory at its place."""
        place, server = self.place, self.server
        if not place.result.exists():
            write_whole(place.result, replayed_json(self.replayed()))
        give_back_configuration(server, place.config)
        self.measured("sync", lambda: sync(self.site, server))
        place.publish(server.data)

    def replayed(self) -> Replayed:
        """Do what is not done yet, up to a server that reached the target and was stopped there."""
        place, server = self.place, self.server
        refuse_unfit(self.last, server.programs, self.site.runner)
        if not place.is_done("stage"):
            links = self.measured("fetch and decrypt", self._fetch)
            self.measured("unpack, check, combine", lambda: place.once("unpack", lambda: self._unpack(links)))
            self.measured("stage WAL", lambda: place.once("stage", lambda: self._stage(links)))
        place.once("configuration", lambda: keep_configuration(server, place.config))
        return self.measured("replay", lambda: replay(self.site, self.plan, server, place))

    def measured(self, name: str, do: Callable[[], _T]) -> _T:
        """Do a step and tell how long it took."""
        planned = {step.name: step.bytes for step in self.plan.steps}
        begun = time.monotonic()
        result = do()
        seconds = max(time.monotonic() - begun, 0.001)
        count = planned.get(name, 0)
        self.steps.append(Step(name, count, seconds))
        log.info("%s: %.1f MB in %.1f s (%.1f MB/s)", name, count / 1e6, seconds, count / 1e6 / seconds)
        return result

    def _fetch(self) -> tuple[Link, ...]:
        """Bring the files of all links, several at a time; what is here already stays."""
        where = self.plan.repositories
        wanted = [describe_anywhere(self.site, where, name) for name in self.plan.backups]
        return anywhere(
            self.site, where, lambda store: fetch_links(self.site, store, wanted, self.place.files, jobs=self.jobs)
        )

    def _unpack(self, links: tuple[Link, ...]) -> None:
        data = [link for link in links if link.manifest.id in self.plan.chain]
        unpack_chain(self.site, self.server, data, jobs=self.jobs)

    def _stage(self, links: tuple[Link, ...]) -> None:
        bundles = [link for link in links if link.manifest.id in self.plan.bundles]
        stage_wal(self.site, self.plan, bundles, self.server, jobs=self.jobs)


def last_manifest(site: Site, plan: RecoveryPlan) -> Manifest:
    """Return the manifest of the last backup that a recovery is made from."""
    return describe_anywhere(site, plan.repositories, plan.chain[-1]).manifest


def recovered_server(site: Site, manifest: Manifest, recovered: Recovered) -> ThrowAwayServer:
    """Return the programs that fit a recovered directory, for starting it where it is."""
    return server_for(site, manifest, recovered.folder.parent)

"""Cutover: the recovered cluster becomes the one that the application works with, by us or by hand, and is watched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import Answer, failures, merged, some
from pgbackup.domain.incident import Doing, Fact, Incident, What
from pgbackup.domain.ports import Site
from pgbackup.postgres import replication
from pgbackup.postgres.connection import Connection, connect
from pgbackup.recover.application import application_findings
from pgbackup.recover.cluster import Recovered
from pgbackup.recover.incident import Told, judged
from pgbackup.recover.replacement import plan_replacement, refuse_another, replace_present
from pgbackup.recover.switch_text import switch_facts
from pgbackup.recover.switching import SwitchPlan

ARCHIVED = "WAL leaves the server again"
_PATIENCE = 60.0
_PAUSE = 0.5


@dataclass(frozen=True)
class Cutover:
    """How the switch will be done: ``switch`` by us, or, where it is None, ``by_hand`` by people."""

    cluster: str
    switch: SwitchPlan | None
    by_hand: tuple[str, ...] = ()


def plan_cutover(site: Site, cluster: str, recovered: Recovered, port: int) -> Cutover:
    """Plan the switch of a recovered cluster; its server is stopped for a moment, and runs again afterwards.

    Raises what plan_switch() does when it cannot take production's place.
    """
    if site.settings.cluster(cluster).control is None:
        return Cutover(cluster, None, tuple(_by_hand(site, cluster, recovered, port)))
    return Cutover(cluster, plan_replacement(site, cluster, recovered, port))


def switch(site: Site, plan: Cutover, recovered: Recovered) -> Told:
    """Carry the approved plan out; where it is to be done by hand, say what is, and leave it to people.

    A try after an interruption goes on. Raises what replace_present() does.
    """
    if plan.switch is None:
        steps = "; ".join(f"{number}. {step}" for number, step in enumerate(plan.by_hand, 1))
        return Told(f"to be done by hand: {steps}", (), {Fact.BY_HAND: steps})
    switched = replace_present(site, plan.switch, recovered)
    if switched is None:
        return Told(f"an earlier try has switched: {plan.cluster} answers as the recovered cluster")
    undo = f"; to undo it: {' && '.join(switched.undo)}" if switched.undo else ""
    return Told("; ".join(switch_facts(switched)) + undo, switched.findings)


def monitor(site: Site, cluster: str, recovered: Recovered) -> Told:
    """See that what answers as production is the recovered cluster, that the application works, that WAL is kept.

    Raises UnavailableError while production is something else, or does not answer.
    """
    parameters = site.recovery_connections(cluster)
    timeline = refuse_another(site, cluster, recovered)
    settings = site.settings.cluster(cluster).verify_backup
    databases = sorted({query.database for query in settings.queries})
    findings = merged(application_findings(settings, parameters, database=name, actual=name) for name in databases)
    kept = judged(ARCHIVED, lambda: _is_archived(site, cluster))
    return Told(f"{cluster} answers as the recovered cluster, timeline {timeline}", (*findings, kept))


def _is_archived(site: Site, cluster: str) -> Answer:
    """Wait a minute for the receiver or the archiver: it comes back by itself where a service manager runs it."""
    deadline = time.monotonic() + _PATIENCE
    with connect(site.connections(cluster)) as connection:
        while True:
            ok, detail = _leaves(site, cluster, connection)
            if ok or time.monotonic() > deadline:
                return ok, detail, "`pgbackup wal create-slot`, then start the receiver; see `pgbackup wal status`"
            time.sleep(_PAUSE)


def _leaves(site: Site, cluster: str, connection: Connection) -> tuple[bool, str]:
    wal = site.settings.cluster(cluster).wal
    if wal.method == "archive_command":
        archiver = replication.archiver(connection)
        return archiver.enabled and not archiver.failing, f"archived last: {archiver.last_archived_wal}"
    slot = replication.slot(connection, wal.slot)
    if slot is None:
        return False, f"there is no slot {wal.slot}"
    return slot.active and not slot.lost, f"slot {wal.slot}: {'in use' if slot.active else 'nobody receives'}"


def _by_hand(site: Site, cluster: str, recovered: Recovered, port: int) -> Iterator[str]:
    folder: Path = recovered.folder
    yield f"see that the old server of {cluster} is stopped, and that nothing starts it again"
    yield f"stop the recovered server: kill -INT $(head -n 1 {folder}/postmaster.pid)"
    yield f"remove what stands behind 'Written by the recovery' in {folder}/postgresql.auto.conf"
    yield f"start it where production was, from {folder}, on production's port instead of {port}"
    if site.settings.cluster(cluster).wal.method == "receiver":
        yield f"pgbackup wal create-slot --cluster {cluster}, before the application writes; then start the receiver"
    yield f"let the application, and the connection of {cluster} in the configuration, lead there"


def refuse_findings(incident: Incident) -> None:
    """Raise RefusedError with all that does not hold, or was never done: such a recovery is no success."""
    last = incident.last()
    undone = [step.value for step in Doing if step not in last or last[step].what is not What.DONE]
    if undone:
        raise RefusedError(
            "steps were not carried out", detail=some(undone), hint="clear their tasks: somebody marked them"
        )
    if not all(finding.ok for finding in incident.findings):
        raise RefusedError(
            "the recovery is done, and not everything is as it should be",
            detail=failures(incident.findings),
            hint="the report says what to do about each",
        )

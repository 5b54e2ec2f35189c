"""A recovered cluster, which may run so that people can look at it, takes the place of the present one."""

from __future__ import annotations

from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.findings import advice
from pgbackup.domain.ports import Site
from pgbackup.postgres import describe, replication
from pgbackup.postgres.connection import connect, server_errors
from pgbackup.postgres.throwaway import living_on
from pgbackup.recover.cluster import Recovered, last_manifest, recovered_server
from pgbackup.recover.control import works_in
from pgbackup.recover.settle import start
from pgbackup.recover.switch import Switched, ask_application, plan_switch, switch_over
from pgbackup.recover.switching import SwitchPlan, read_switching


def plan_replacement(site: Site, cluster: str, recovered: Recovered, port: int | None) -> SwitchPlan:
    """Plan the switch to a recovered cluster; its server is stopped for a moment, and runs again on ``port``, if any.

    Raises what plan_switch() does when it cannot take the present one's place.
    """
    stop_recovered(site, recovered)
    try:
        return plan_switch(site, cluster, recovered.folder)
    finally:
        if port is not None and recovered.folder.exists():
            start(site, recovered_server(site, last_manifest(site, recovered.plan), recovered), recovered.folder, port)


def replace_present(site: Site, approved: SwitchPlan, recovered: Recovered) -> Switched | None:
    """Switch as approved; None says that an earlier try has done it. A try after an interruption goes on.

    Raises RefusedError when the present cluster came back since the approval, or the application cannot work in what an
    earlier try put in place; and what switch_over() does.
    """
    if not recovered.folder.exists() and read_switching(approved.data) is None:
        refuse_another(site, approved.cluster, recovered)
        _refuse_unfit(site, approved.cluster)
        return None
    stop_recovered(site, recovered)
    now = plan_switch(site, approved.cluster, recovered.folder)
    if not now.begun and (now.alive, bool(now.before)) > (approved.alive, bool(approved.before)):
        raise RefusedError(
            f"{approved.cluster} is there again, and was not when its switch was approved",
            detail=f"{now.data}, {now.sessions} sessions",
            hint="what was written into it would be set aside: look at it, then clear `plan_switch`",
        )
    return switch_over(site, now, reindex=bool(approved.collations))


def _refuse_unfit(site: Site, cluster: str) -> None:
    """Raise RefusedError when the application cannot work: the try that switched may have died before it said so."""
    with server_errors(cluster), connect(site.recovery_connections(cluster)) as connection:
        names = describe.databases(connection)
    findings = ask_application(site, cluster, names)
    if not all(finding.ok for finding in findings):
        raise RefusedError(
            f"the recovered cluster is in the place of {cluster}, and the application cannot work in it",
            detail=advice(findings),
            hint="see to it, then clear this task",
        )


def stop_recovered(site: Site, recovered: Recovered) -> None:
    """Stop the server that was started on a recovered directory, if it runs."""
    if works_in(recovered.folder):
        server = recovered_server(site, last_manifest(site, recovered.plan), recovered)
        words = ("stop", "--wait", "--mode=fast", f"--pgdata={recovered.folder}")
        site.runner.run(living_on(server.programs, "pg_ctl", *words))


def refuse_another(site: Site, cluster: str, recovered: Recovered) -> int:
    """Return the timeline of what answers as production; raises UnavailableError unless that is the recovered one."""
    with server_errors(cluster), connect(site.recovery_connections(cluster)) as connection:
        found = replication.position(connection)
        branched = replication.branches(connection, found.timeline)
    wanted = recovered.replayed.timeline
    same = found.system_identifier == recovered.plan.system_identifier and found.timeline >= wanted
    # A standby that somebody promoted meanwhile may have a timeline of the same number, and another history.
    if not same or (branched is not None and recovered.replayed.lsn not in branched):
        raise UnavailableError(
            f"what answers as {cluster} is not the recovered cluster",
            detail=f"system {found.system_identifier}, timeline {found.timeline}; the recovered one is on {wanted}",
            hint="do what is to be done by hand, as the step before says, then clear this task",
        )
    return found.timeline

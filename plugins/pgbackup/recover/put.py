"""Put the rows of a table beside into the table itself, once somebody has seen what that means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ports import Site
from pgbackup.postgres import replace
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.postgres.replace import Present
from pgbackup.recover.table import RecoveredTable, TableRecovery, Way, refuse_closed


@dataclass(frozen=True)
class PutPlan:
    """What will be done with the rows beside: ``adds`` of them are put into a table that has ``rows`` now."""

    recovered: RecoveredTable
    way: Way
    rows: int
    adds: int


def plan_put(site: Site, recovered: RecoveredTable, way: Way) -> PutPlan:
    """Plan to put the rows that were recovered beside in place, or to merge them; nothing is touched.

    Raises RefusedError when rows would refer to nothing, or the table or the one beside it is gone; UnfitError for a
    missing right.
    """
    with _opened(site, recovered, way) as (recovery, beside):
        connection, present = recovery.connection, recovery.present
        only = replace.missing(present) if way is Way.MERGE else None
        recovery.refuse_violations(beside.identifier, only)
        return PutPlan(
            recovered,
            way,
            rows=replace.count(connection, present.rows),
            adds=replace.count(connection, beside.identifier, only),
        )


def put(site: Site, plan: PutPlan) -> RecoveredTable:
    """Carry a plan out, in one transaction; the table beside is gone then. Raises what plan_put raises."""
    with _opened(site, plan.recovered, plan.way) as (recovery, beside):
        columns = [column for column in recovery.present.columns if column in beside.columns]
        before, added = recovery.put(beside.identifier, columns)
    return dataclasses.replace(
        plan.recovered, plan=recovery.plan, staged=None, before=before, added=added, missing=None, violations=()
    )


@contextmanager
def _opened(site: Site, recovered: RecoveredTable, way: Way) -> Iterator[tuple[TableRecovery, Present]]:
    """Connect to where both tables are."""
    plan = dataclasses.replace(recovered.plan, way=way)
    with (
        server_errors(plan.cluster),
        connect(site.recovery_connections(plan.cluster), plan.database) as connection,
    ):
        present = replace.look_up(connection, plan.schema_name, plan.name)
        if present is None:
            raise RefusedError(f"{plan.schema_name}.{plan.name} is gone", hint="recover it again: it is made anew then")
        refuse_closed(connection, present, way)
        recovery = TableRecovery(site, plan, connection, present)
        yield recovery, _beside(connection, recovery, recovered.staged or "")


def _beside(connection: Connection, recovery: TableRecovery, staged: str) -> Present:
    """Look up the table beside, which is known by its comment."""
    found = connection.execute(
        "SELECT relname FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)"
        " AND pg_catalog.obj_description(oid, 'pg_class') = %s",
        (staged, recovery.mark),
    ).fetchone()
    beside = replace.look_up(connection, recovery.plan.schema_name, found[0]) if found else None
    if beside is None:
        raise RefusedError(
            f"{staged} is not there any more, or is not what was recovered",
            detail="an interrupted try may have put its rows in place already",
            hint="look at the table, and at `pgbackup recover old`: it lists what was kept",
        )
    return beside

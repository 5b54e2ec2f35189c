"""Where the heartbeat is: its table is in one database of a cluster, whichever that is."""

from __future__ import annotations

from datetime import datetime

from pgbackup.domain.errors import UnfitError
from pgbackup.domain.model import ConnectionParameters
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection, connect


def connect_to_heartbeat(parameters: ConnectionParameters) -> Connection:
    """Connect to the first database that has the table, else to the one that the parameters name."""
    with connect(parameters) as connection:
        names = describe.databases(connection)
    for name in names:
        try:
            connection = connect(parameters, name)
        except UnfitError:
            continue  # does not let us in
        row = connection.execute("SELECT pg_catalog.to_regclass('pgbackup.heartbeat')").fetchone()
        if row and row[0]:
            return connection
        connection.close()
    return connect(parameters)


_NEAR = 1000


def heartbeats_near(connection: Connection, moment: datetime) -> tuple[tuple[datetime, ...], datetime | None]:
    """Return the thousand heartbeats around a moment, in order, and the newest one of all (None: there is none).

    Raises UnfitError when nobody made the table.
    """
    row = connection.execute("SELECT pg_catalog.to_regclass('pgbackup.heartbeat')").fetchone()
    if not row or row[0] is None:
        raise UnfitError(
            "the server has no table pgbackup.heartbeat", hint="make it: include/sql/streamflix/pgbackup.sql"
        )
    near = connection.execute(
        "SELECT moment FROM (SELECT moment FROM pgbackup.heartbeat"
        " ORDER BY pg_catalog.abs(extract(epoch FROM moment - %s)) LIMIT %s) AS nearest ORDER BY moment",
        (moment, _NEAR),
    ).fetchall()
    [newest] = connection.execute("SELECT max(moment) FROM pgbackup.heartbeat").fetchone() or (None,)
    return tuple(one for (one,) in near), newest

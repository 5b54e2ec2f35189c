"""Where the heartbeat is: its table is in one database of a cluster, whichever that is."""

from __future__ import annotations

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

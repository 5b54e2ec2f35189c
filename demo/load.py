"""The application of the second act: it moves money, and remembers what the server said was committed."""

import random
import threading
import time
from datetime import datetime
from types import TracebackType
from typing import Self

import psycopg

from demo.evidence import NotProvedError
from demo.postgres import Server

ACCOUNTS = 100
TOTAL = ACCOUNTS * 1000
PAUSE = 0.02
TRANSFER = """
WITH taken AS (UPDATE demo.account SET balance = balance - 1 WHERE account_id = %(source)s),
     given AS (UPDATE demo.account SET balance = balance + 1 WHERE account_id = %(target)s)
INSERT INTO demo.transfer (source, target) VALUES (%(source)s, %(target)s) RETURNING transfer_id, clock_timestamp()
"""


class Load:
    """Transfers fifty times a second while the block runs, and goes on as soon as a server is back."""

    def __init__(self, server: Server, password: str, database: str) -> None:
        self.server = server
        self.password = password
        self.database = database
        self.committed: dict[int, datetime] = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> Self:
        with self.connect() as connection:
            connection.execute(
                "CREATE SCHEMA IF NOT EXISTS demo;"
                "CREATE TABLE IF NOT EXISTS demo.account (account_id int PRIMARY KEY, balance int NOT NULL);"
                "CREATE TABLE IF NOT EXISTS demo.transfer (transfer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " source int NOT NULL, target int NOT NULL)"
            )
            connection.execute(
                "INSERT INTO demo.account SELECT n, 1000 FROM generate_series(1, %s) AS n ON CONFLICT DO NOTHING",
                [ACCOUNTS],
            )
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.thread.join()

    def connect(self) -> psycopg.Connection:
        """A connection of the application's."""
        return self.server.connect(self.password, self.database)

    def run(self) -> None:
        """Transfer until told to stop."""
        while not self.stop.is_set():
            try:
                with self.connect() as connection:
                    while not self.stop.is_set():
                        self.transfer(connection)
                        time.sleep(PAUSE)
            except psycopg.Error:  # down, read only, or the session was ended
                time.sleep(PAUSE)

    def transfer(self, connection: psycopg.Connection) -> None:
        """Move money once; it counts when the server has said so."""
        source, target = random.sample(range(1, ACCOUNTS + 1), 2)
        for number, at in connection.execute(TRANSFER, {"source": source, "target": target}):
            self.committed[number] = at

    def lost(self, until: datetime) -> tuple[int, float]:
        """What was committed up to a moment and is not there: how many transfers, and the seconds that they span.

        Raises NotProvedError when money was lost or made: then a transfer is there in half.
        """
        promised = {number: at for number, at in list(self.committed.items()) if at <= until}
        with self.connect() as connection:
            [total] = connection.execute("SELECT sum(balance) FROM demo.account").fetchone() or (None,)
            there = {row[0] for row in connection.execute("SELECT transfer_id FROM demo.transfer")}
        if total != TOTAL:
            raise NotProvedError(f"{total} instead of {TOTAL} is in all accounts")
        gone = [at for number, at in promised.items() if number not in there]
        return len(gone), (until - min(gone)).total_seconds() if gone else 0.0

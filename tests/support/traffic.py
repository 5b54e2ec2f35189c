"""Many clients that move money between accounts in every way that commits: the total never changes."""

from __future__ import annotations

import contextlib
import random
import threading
from types import TracebackType
from typing import Self

import psycopg

from tests.support.source import Source

ACCOUNTS = 200
TOTAL = ACCOUNTS * 1000


class Traffic:
    """Runs while the block runs; ``transfers`` counts what was committed."""

    def __init__(self, source: Source, database: str, *, clients: int = 6) -> None:
        self._source = source
        self._database = database
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(clients)
        ]
        self.transfers = 0
        self.errors: list[BaseException] = []

    def __enter__(self) -> Self:
        with self._source.connect(self._database) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS account (id int PRIMARY KEY, balance int NOT NULL);"
                "CREATE TABLE IF NOT EXISTS transfer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " source int NOT NULL, target int NOT NULL, amount int NOT NULL, at timestamptz DEFAULT now());"
            )
            connection.execute(
                "INSERT INTO account SELECT n, 1000 FROM generate_series(1, %s) AS n ON CONFLICT DO NOTHING",
                (ACCOUNTS,),
            )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors

    def _client(self, number: int) -> None:
        chance = random.Random(number)
        try:
            with self._source.connect(self._database) as connection:
                connection.execute(f"SET synchronous_commit = {chance.choice(['on', 'off', 'local'])}")
                while not self._stop.is_set():
                    with contextlib.suppress(psycopg.errors.DeadlockDetected):
                        self._transfer(connection, chance)
                        self.transfers += 1
        except BaseException as error:
            self.errors.append(error)

    def _transfer(self, connection: psycopg.Connection[tuple], chance: random.Random) -> None:
        source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
        amount = chance.randint(1, 50)
        way = chance.random()
        try:
            connection.execute("BEGIN")
            if way < 0.2:
                connection.execute("SAVEPOINT s")  # commits with a subtransaction
            connection.execute("UPDATE account SET balance = balance - %s WHERE id = %s", (amount, source))
            connection.execute("UPDATE account SET balance = balance + %s WHERE id = %s", (amount, target))
            connection.execute(
                "INSERT INTO transfer (source, target, amount) VALUES (%s, %s, %s)", (source, target, amount)
            )
            if 0.2 < way < 0.3:
                name = f"t{threading.get_ident()}"
                connection.execute(f"PREPARE TRANSACTION '{name}'")
                connection.execute(f"COMMIT PREPARED '{name}'")
            elif 0.3 < way < 0.35:
                connection.execute("ROLLBACK")
            else:
                connection.execute("COMMIT")
        except psycopg.Error:
            connection.execute("ROLLBACK")
            raise

"""Fingerprint a snapshot's tables on connections of their own while the dump runs."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from types import TracebackType
from typing import Self

from pgbackup.domain.manifest import Content, Table
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.settings import Fingerprints
from pgbackup.postgres import describe
from pgbackup.postgres.connection import Connection
from pgbackup.postgres.describe import TableSource
from pgbackup.postgres.snapshot import Snapshot, imported_snapshot


class ContentReader:
    """Reads in the background from entering to ``result()``; leaving early cancels what runs on the server."""

    def __init__(
        self, parameters: ConnectionParameters, database: str, snapshot: Snapshot, settings: Fingerprints
    ) -> None:
        self._parameters = parameters
        self._database = database
        self._snapshot = snapshot
        self._settings = settings
        self._contents: dict[tuple[str, str], Content] = {}
        self._large_objects: Content | None = None
        self._errors: list[BaseException] = []
        self._connections: set[Connection] = set()
        self._stopped = threading.Event()
        self._work: queue.SimpleQueue[TableSource | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        if not self._settings.enabled:
            return self
        compared = [table for table in self._snapshot.tables if self._compared(table)]
        for table in sorted(compared, key=lambda table: table.bytes, reverse=True):
            self._work.put(table)
        self._work.put(None)  # the large objects
        for _ in range(min(self._settings.jobs, len(compared) + 1)):
            thread = threading.Thread(target=self._read, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        while any(thread.is_alive() for thread in self._threads):
            for connection in list(self._connections):
                with contextlib.suppress(Exception):  # already gone is what is wanted
                    connection.cancel_safe(timeout=5)
            time.sleep(0.05)

    def result(self) -> tuple[tuple[Table, ...], Content | None]:
        """Wait for the rest; return every table with its content, and the large objects'. Raises the first error."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        tables = tuple(
            Table(
                schema_name=table.schema_name,
                name=table.name,
                kind=table.kind,
                unlogged=table.unlogged,
                content=self._contents.get((table.schema_name, table.name)),
            )
            for table in self._snapshot.tables
        )
        return tables, self._large_objects

    def _compared(self, table: TableSource) -> bool:
        names = {f"{table.schema_name}.{table.name}", f"{self._database}.{table.schema_name}.{table.name}"}
        return table.kind != "p" and names.isdisjoint(self._settings.exclude)

    def _read(self) -> None:
        try:
            compared = [table for table in self._snapshot.tables if self._compared(table)]
            with imported_snapshot(self._parameters, self._database, self._snapshot.id, compared) as connection:
                self._connections.add(connection)
                try:
                    self._read_all(connection)
                finally:
                    self._connections.discard(connection)
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            if not self._stopped.is_set():
                self._errors.append(error)
                self._stopped.set()

    def _read_all(self, connection: Connection) -> None:
        while not self._stopped.is_set():
            try:
                table = self._work.get_nowait()
            except queue.Empty:
                return
            if table is None:
                self._large_objects = describe.large_objects(connection)
            else:
                self._contents[table.schema_name, table.name] = describe.content(connection, table)

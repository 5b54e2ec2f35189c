"""Rows of a dump on their way into a table: pg_restore writes COPY blocks, we feed them to the server as they come."""

from __future__ import annotations

import contextlib
import re
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from pgbackup.domain.errors import RefusedError
from pgbackup.postgres.connection import Connection

_NAME = rb'(?:"(?:[^"]|"")*"|\w+)'
_COPY = re.compile(rb"COPY (%b)\.(%b) (\((.*)\))? FROM stdin;" % (_NAME, _NAME))
_END = b"\n\\.\n"
_RESTRICT = re.compile(rb"^\\restrict (\w+)$", re.MULTILINE)


class RowSink:
    """A sink for the output of pg_restore --data-only. Rows go to ``target``, or to the table that the dump names.

    ``columns`` are those that the dump gives values for, ``rows`` have arrived. Nothing larger than a chunk is held.
    """

    def __init__(self, connection: Connection, target: sql.Identifier | None = None) -> None:
        self.columns: set[str] = set()
        self.rows = 0
        self._connection = connection
        self._target = target
        self._cursor = connection.cursor()
        self._block = contextlib.ExitStack()
        self._copy: psycopg.Copy | None = None
        self._pending = b""
        self._skip = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._copy is not None and error is None:
            cut = RefusedError("the dump ends within a table", hint="recover from another copy")
            self._block.__exit__(RefusedError, cut, None)
            raise cut
        self._block.__exit__(kind, error, trace)  # with an error the server forgets what it has of the block

    def write(self, data: bytes | memoryview) -> None:
        """Take a chunk of the script."""
        self._pending += bytes(data)
        while self._rows() if self._copy else self._line():
            pass

    def _line(self) -> bool:
        line, newline, rest = self._pending.partition(b"\n")
        if not newline:
            return False
        self._pending = rest
        if line.startswith(b"SET client_encoding "):
            self._connection.execute(line)
        elif line.startswith(b"COPY "):
            self._begin(line)
            # The newline before the rows is kept, so that the end of no rows at all is seen, too.
            self._pending, self._skip = b"\n" + rest, 1
        return True

    def _begin(self, line: bytes) -> None:
        match = _COPY.fullmatch(line)
        if match is None:
            raise RefusedError("a name in the dump cannot be read", detail=repr(line[:200]))
        encoding = self._connection.info.encoding
        self.columns |= {unquoted(name.decode(encoding)) for name in re.findall(_NAME, match[4] or b"")}
        target = b"%b.%b" % match.group(1, 2) if self._target is None else self._target.as_bytes(self._connection)
        statement = b"COPY %b %b FROM stdin" % (target, match[3] or b"")
        self._copy = self._block.enter_context(self._cursor.copy(statement))

    def _rows(self) -> bool:
        """Pass rows on; hold back what may be the beginning of the end."""
        assert self._copy is not None  # noqa: S101 - asked by the caller
        end = self._pending.find(_END)
        upto = end + 1 if end >= 0 else len(self._pending) - len(_END) + 1
        if upto > self._skip:
            self._copy.write(self._pending[self._skip : upto])
            if end < 0:
                self._pending, self._skip = self._pending[upto:], 0
        if end < 0:
            return False
        self._pending = self._pending[end + len(_END) :]
        self._copy = None
        self._block.close()
        self.rows += self._cursor.rowcount
        return True


def unquoted(name: str) -> str:
    """Return the name that an SQL identifier means."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def script(text: bytes) -> bytes:
    """Return a script of pg_restore as the server can run it: without psql's own two commands, which carry a key."""
    match = _RESTRICT.search(text)
    if match is None:
        return text
    return text.replace(match[0] + b"\n", b"").replace(b"\\unrestrict " + match[1] + b"\n", b"")

"""Reach a server: with psycopg, and from client programs through a private password file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from pgbackup.domain.errors import (
    ConfigurationError,
    PermanentError,
    PgBackupError,
    ProgramFailed,
    UnavailableError,
    UnfitError,
)
from pgbackup.domain.model import ConnectionParameters
from pgbackup.scratch import private_folder

Connection = psycopg.Connection[TupleRow]

APPLICATION_NAME = "pgbackup"
# Whatever a value's text depends on is pinned, so that the same row reads the same on any server.
PINNED: dict[str, str] = {
    "search_path": "",
    "row_security": "off",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "transaction_timeout": "0",
}
_SINCE = {"transaction_timeout": 170000}


def connect(parameters: ConnectionParameters, database: str | None = None, *, pinned: bool = True) -> Connection:
    """Open an autocommit connection, output settings pinned.

    Raises UnfitError when the server refuses us (password, role, database), UnavailableError when it does not answer.
    """
    keywords: dict[str, Any] = {
        "connect_timeout": "15",
        "application_name": APPLICATION_NAME,
        **parameters.keywords,
    }
    if database is not None:
        keywords["dbname"] = database
    if parameters.password is not None:
        keywords["password"] = parameters.password
    try:
        connection = psycopg.connect(**keywords, autocommit=True, client_encoding="UTF8", prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise connection_failure(error, parameters, database) from None
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"not a way to connect to {describe(parameters, database)}", detail=str(error).strip()
        ) from None
    if pinned:
        for name, value in PINNED.items():
            if connection.info.server_version < _SINCE.get(name, 0):
                continue
            connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
    return connection


@contextlib.contextmanager
def server_errors(server: str) -> Iterator[None]:
    """Turn what the driver raises inside the block into our errors, so that a retry knows whether it can help."""
    try:
        yield
    except ProgramFailed as error:
        if "permission denied" not in error.stderr:
            raise
        raise UnfitError(
            f"a right is missing on {server}", detail=error.detail, hint="`pgbackup doctor` lists the rights"
        ) from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise UnavailableError(
            f"the connection to {server} was lost",
            detail=str(error).strip(),
            hint="is the server still running?",
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise UnfitError(
            f"a right is missing on {server}",
            detail=str(error).strip(),
            hint="`pgbackup doctor` lists the rights",
        ) from None
    except psycopg.Error as error:
        raise PermanentError(f"{server} refuses a query of ours", detail=str(error).strip()) from None


def connection_failure(
    error: psycopg.OperationalError, parameters: ConnectionParameters, database: str | None
) -> PgBackupError:
    """Say who refused whom. libpq's own text holds no password, but ours is masked all the same."""
    text = str(error)
    if parameters.password:
        text = text.replace(parameters.password, "***")
    target = describe(parameters, database)
    refusals = (
        "password authentication failed",
        "no password supplied",
        "pg_hba.conf",
        "does not exist",
        "not permitted",
    )
    if (error.sqlstate and error.sqlstate[:2] in {"28", "3D"}) or any(refusal in text for refusal in refusals):
        return UnfitError(
            f"the server refuses the connection to {target}",
            detail=text.strip(),
            hint="check the connection's user, password and database, and the server's pg_hba.conf",
        )
    if "service" in text and "not found" in text:
        return UnfitError(
            f"cannot find the connection service for {target}",
            detail=text.strip(),
            hint="see pg_service.conf",
        )
    return UnavailableError(
        f"cannot connect to {target}",
        detail=text.strip(),
        hint="is the server running and reachable from this machine?",
    )


def describe(parameters: ConnectionParameters, database: str | None = None) -> str:
    """Name a connection for messages, without its password."""
    keywords = dict(parameters.keywords)
    if "service" in keywords and "host" not in keywords:
        return f"service {keywords['service']}" + (f", database {database!r}" if database else "")
    place = f"{keywords.get('host', 'local socket')}:{keywords.get('port', '5432')}"
    return f"{keywords.get('user', '?')}@{place}" + (f", database {database!r}" if database else "")


@contextlib.contextmanager
def program_access(parameters: ConnectionParameters) -> Iterator[ProgramAccess]:
    """Give client programs access: a password goes through a private file, never through argv or environment."""
    if parameters.password is None:
        yield ProgramAccess(parameters, {})
        return
    with private_folder() as folder:
        passfile = folder / "pgpass"
        fd = os.open(passfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        escaped = parameters.password.replace("\\", "\\\\").replace(":", "\\:")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(f"*:*:*:*:{escaped}\n")
        yield ProgramAccess(parameters, {"PGPASSFILE": str(passfile)})


class ProgramAccess:
    """What a client program is given to reach a server: a conninfo without password, and an environment."""

    def __init__(self, parameters: ConnectionParameters, env: dict[str, str]) -> None:
        self._parameters = parameters
        self.env = {
            **env,
            "PGAPPNAME": APPLICATION_NAME,
            # Output that the dump's text could depend on is pinned by pg_dump itself; a hanging server is not.
            "PGCONNECT_TIMEOUT": "15",
        }

    def conninfo(self, database: str) -> str:
        """Return the value for a program's --dbname: any database name is safe in it."""
        keywords = {key: value for key, value in self._parameters.keywords.items() if key != "dbname"}
        return make_conninfo("", **keywords, dbname=database)

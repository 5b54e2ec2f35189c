"""Make a recovered data directory fit to be started by its owner: the source's configuration, made harmless."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, UnavailableError
from pgbackup.domain.ports import Site
from pgbackup.postgres.throwaway import ThrowAwayServer, living_on

_AUTO = "postgresql.auto.conf"
_FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", _AUTO)
# What would let the recovered server reach for the source's own archive, standbys, publishers.
_HARMLESS = {
    "archive_mode": "off",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "restore_command": "",
    "synchronous_standby_names": "",
    "max_logical_replication_workers": "0",
}
_NOT_OURS = re.compile(rf"\s*({'|'.join(_HARMLESS)}|recovery_\w+)\s*=", re.IGNORECASE)
_HEADER = "# Written by the recovery: settings of the source that must not act here; remove them at the cutover.\n"


def keep_configuration(server: ThrowAwayServer, folder: Path) -> None:
    """Put the source's configuration aside before the isolated server gets its own."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in _FILES:
        if (server.data / name).exists():
            shutil.copy(server.data / name, folder / name)


def give_back_configuration(server: ThrowAwayServer, folder: Path) -> None:
    """Put the source's configuration back, with what keeps it from the source's archive, standbys and publishers.

    A file that the source keeps elsewhere becomes an empty one.
    """
    for name in _FILES:
        kept = folder / name
        text = kept.read_text(encoding="utf-8", errors="surrogateescape") if kept.exists() else ""
        if name == _AUTO:
            lines = (line for line in text.splitlines(keepends=True) if not _NOT_OURS.match(line))
            additions = (f"{setting} = '{value}'\n" for setting, value in _HARMLESS.items())
            text = "".join((*lines, "\n", _HEADER, *additions))
        (server.data / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    server.own()


def sync(site: Site, server: ThrowAwayServer) -> None:
    """Make the whole data directory durable; replay itself did not wait for the disk."""
    site.runner.run(living_on(server.programs, "initdb", "--sync-only", "-D", str(server.data)))


def start(site: Site, server: ThrowAwayServer, data: Path, port: int) -> None:
    """Start a server on loopback that lives on when we end; raises UnavailableError with the end of its log.

    Where the source's configuration names places, the recovered directory takes their stead.
    """
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(data),
        "data_directory": str(data),
        "hba_file": str(data / "pg_hba.conf"),
        "ident_file": str(data / "pg_ident.conf"),
        "external_pid_file": "",
    }
    words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
    log = data / "recovered.log"
    command = living_on(
        server.programs, "pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={log}", f"--options={words}"
    )
    try:
        site.runner.run(command)
    except ProgramFailed as error:
        told = log.read_text(errors="replace")[-2000:] if log.exists() else error.detail
        raise UnavailableError(
            f"the recovered server does not start on port {port}",
            detail=told,
            hint=f"the recovery is complete: see to its configuration in {data} and start it",
        ) from None

"""Make a recovered data directory fit to be started by its owner: the source's configuration, made harmless."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, UnavailableError
from pgbackup.domain.findings import some
from pgbackup.domain.ports import Site
from pgbackup.postgres.standstill import READ_ONLY
from pgbackup.postgres.throwaway import ThrowAwayServer, living_on
from pgbackup.recover.workplace import write_whole

log = logging.getLogger(__name__)

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
_HELD = re.compile(rf"\s*{READ_ONLY}\s*=", re.IGNORECASE)
_SET = re.compile(r"^(\w+) = '(.*)'$", re.MULTILINE)
_OPTIONS = "postmaster.opts"
_TLS = ("ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file")
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
        text = _read(folder / name)
        if name == _AUTO:
            text = _harmless(text)
        (server.data / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    server.own()


def _harmless(text: str) -> str:
    additions = (f"{setting} = '{value}'\n" for setting, value in _HARMLESS.items())
    return "".join((_without(text, _NOT_OURS), "\n", _HEADER, *additions))


def _without(text: str, lines: re.Pattern[str]) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not lines.match(line))


def is_settled(data: Path) -> bool:
    """Tell whether a directory holds a recovered cluster that is kept from the source's surroundings."""
    set_to = dict(_SET.findall(_read(data / _AUTO)))
    return _HARMLESS.items() <= set_to.items() and not (data / "recovery.signal").exists()


def take_configuration(data: Path, old: Path | None) -> None:
    """Give a settled directory the configuration of the one whose place it takes, and let it start read only.

    Where ``old`` has no such file, or is none, the recovered one is kept, without what made it harmless. The command
    line that the old server was started with comes along: `pg_ctl restart` uses it.
    """
    for name in (*_FILES, _OPTIONS):
        kept = old is not None and (old / name).exists()
        text = _read((old if old is not None and kept else data) / name)
        if name == _AUTO:
            text = _without(text, _HELD) if kept else _without(_without(text, _NOT_OURS), _HELD)
            text += f"{READ_ONLY} = 'on'\n"
        if kept or name == _AUTO:
            _put(data / name, text)
    if old is None or not (old / _OPTIONS).exists():
        (data / _OPTIONS).unlink(missing_ok=True)  # of a server that was started beside


def settle_again(data: Path) -> None:
    """Take the above back."""
    _put(data / _AUTO, _harmless(_without(_read(data / _AUTO), _HELD)))


def let_write(data: Path) -> None:
    """Let the server of a directory, which does not run, write again."""
    text = _read(data / _AUTO)
    if (free := _without(text, _HELD)) != text:
        _put(data / _AUTO, free)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


def _put(path: Path, text: str) -> None:
    """Write a file that the directory's owner reads."""
    owner = path.parent.stat()
    write_whole(path, text.encode(errors="surrogateescape"))
    os.chown(path, owner.st_uid, owner.st_gid)


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
    output = data / "recovered.log"
    try:
        if absent := _absent_tls(site, server, data):
            log.warning("started without TLS, on loopback: this machine lacks the source's %s", some(absent))
            options["ssl"] = "off"
        words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        start = ("pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={output}", f"--options={words}")
        site.runner.run(living_on(server.programs, *start))
    except ProgramFailed as error:
        told = output.read_text(errors="replace")[-2000:] if output.exists() else error.detail
        raise UnavailableError(
            f"the recovered server does not start on port {port}",
            detail=told,
            hint=f"the recovery is complete: see to its configuration in {data} and start it",
        ) from None


def _absent_tls(site: Site, server: ThrowAwayServer, data: Path) -> list[str]:
    """Return what a configuration with TLS needs and this machine has not got: the server would not start."""

    def setting(name: str) -> str:
        asked = living_on(server.programs, "postgres", "-D", str(data), "-C", name)
        return site.runner.run(asked)[0].decode(errors="surrogateescape").strip()

    if setting("ssl") != "on":
        return []
    named = ((name, setting(name)) for name in _TLS)
    return [f"{name} {value}" for name, value in named if value and not (data / value).exists()]

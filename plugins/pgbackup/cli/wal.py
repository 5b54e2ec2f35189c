"""``pgbackup wal``: the receiver as a service, its slot, and how both and the archive are."""

from __future__ import annotations

import signal
from dataclasses import asdict
from typing import Any

import typer

from pgbackup.cli.face import Cluster, Config, Json, failures, only, open_site, running
from pgbackup.cli.output import err, out, print_error, print_json
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.wal import create_slot, receive, wal_status
from pgbackup.wal.status import WalStatus

wal_app = typer.Typer(help="The WAL archive: receive, seal, look at it.", no_args_is_help=True)


@wal_app.command("receive")
def wal_receive(config: Config = None, cluster: Cluster = None) -> None:
    """Receive and seal WAL until told to stop (SIGTERM, SIGINT): a service, started again when it ends by itself."""
    told: list[int] = []  # no lock may be taken in a handler
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: told.append(received))
    with running("wal_receive", config, cluster, json=False) as (site, name):
        receive(site, name, stop=lambda: bool(told))


@wal_app.command("create-slot")
def wal_create_slot(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Make the receiver's replication slot; the server keeps WAL for it from now on. Then take a new base."""
    with failures(json=json):
        site = open_site(config)
        name = only(site, cluster)
        start = create_slot(site, name)
        slot = site.settings.cluster(name).wal.slot
    if json:
        print_json({"slot": slot, "restart_lsn": str(start)})
    else:
        out.print(f"slot {slot} keeps WAL from {start} on", markup=False)


@wal_app.command("status")
def wal_show_status(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """Show receiver, archive, slot and lag; exit 1: a gap, a conflict, no receiver; 3: the server does not answer."""
    with failures(json=json):
        site = open_site(config)
        status = wal_status(site, only(site, cluster))
    if json:
        print_json(_document(status))
    else:
        _print(status)
    if status.unreachable:
        print_error(status.unreachable, as_json=json)
        raise typer.Exit(UnavailableError.exit_code)
    if status.problems:
        raise typer.Exit(RefusedError.exit_code)


def _document(status: WalStatus) -> dict[str, Any]:
    return {
        "cluster": status.cluster,
        "problems": status.problems,
        "alive": status.alive,
        "receiver": status.receiver.model_dump(mode="json") if status.receiver else None,
        "archives": [
            {
                "system_identifier": one.system_identifier,
                "stretches": [
                    {"timeline": part.timeline, "start": str(part.start), "end": str(part.end)}
                    for part in one.stretches
                ],
                "gaps": [str(gap) for gap in status.gaps[one.system_identifier]],
                "conflicts": one.conflicts,
                "histories": sorted(one.histories),
            }
            for one in status.archives
        ],
        "server": asdict(status.server) | {"flush": str(status.server.flush), "insert": str(status.server.insert)}
        if status.server
        else None,
        "slot": asdict(status.slot) | {"restart_lsn": str(status.slot.restart_lsn)} if status.slot else None,
        "archive_behind_bytes": status.behind,
        "disk_behind_bytes": status.unreceived,
    }


def _print(status: WalStatus) -> None:
    def line(name: str, text: object) -> None:
        out.print(f"{name:10} {text}", markup=False)

    told = status.receiver
    if status.is_receiver:
        line("receiver", "runs" if status.alive else "does not run")
    if told:
        line("", f"received up to {told.received_lsn} at {_moment(told.received_at)}, {told.backlog} files to seal")
        line("", f"last sealed {told.sealed_name} at {_moment(told.sealed_at)}")
    for one in status.archives:
        for part in one.stretches:
            line("archive", f"{part.start} to {part.end} on timeline {part.timeline} of system {one.system_identifier}")
    if status.slot:
        kept = (status.slot.retained_bytes or 0) / 1e6
        line("slot", f"{status.slot.name} {status.slot.wal_status}, keeps {kept:.1f} MB on the server")
    if status.server:
        line("server", f"flushed up to {status.server.flush} on timeline {status.server.timeline}")
        behind = {"on this disk": status.unreceived, "in the archive": status.behind}
        for place, count in behind.items():
            line("", f"not {place}: {'everything' if count is None else f'{count / 1e6:.1f} MB'}")
    for problem in status.problems:
        err.print(f"PROBLEM    {problem}", style="bold red", markup=False)


def _moment(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else "?"

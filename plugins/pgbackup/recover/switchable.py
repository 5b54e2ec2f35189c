"""Whether a recovered directory can take the place of a cluster's own, and what has to be known before it does."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgbackup.domain.errors import ProgramFailed, RefusedError, UnfitError
from pgbackup.domain.ports import Site
from pgbackup.postgres import describe, physical, replication, standstill
from pgbackup.postgres.beside import Leftover
from pgbackup.postgres.connection import Connection, connect, server_errors
from pgbackup.postgres.programs import Programs, find_programs
from pgbackup.recover.control import Production, works_in
from pgbackup.recover.settle import is_settled
from pgbackup.recover.switching import SwitchPlan
from pgbackup.recover.workplace import beside
from pgbackup.restore.reach import read_holdings

_BEFORE = ".before_"


def survey_switch(site: Site, cluster: str, folder: Path, data: Path) -> SwitchPlan:
    """Plan to put ``folder`` at ``data``; raises RefusedError when that cannot be."""
    _refuse_closed(folder, data)
    _refuse_unfinished(folder)
    major = int((folder / "PG_VERSION").read_text())
    programs = find_programs(site.settings.paths.postgres_bin, major=major)
    control = _control(site, programs, folder)
    if control["Database cluster state"] != "shut down":
        raise RefusedError(f"{folder} was not stopped cleanly", hint="start its server once more, and stop it")
    old = data if data.is_dir() and any(data.iterdir()) else None
    _refuse_place(folder, data, old)
    system = control["Database system identifier"]
    if system != _system(site, cluster, programs, old):
        raise RefusedError(f"{folder} is not of {cluster}", detail=f"its system identifier is {system}")
    production = Production(site, cluster, data, major)
    sessions, collations, notes = 0, list[str](), ["it does not answer: what is not archived is in the old directory"]
    answers = production.answers()
    if answers:
        with server_errors(cluster), production.connect() as connection:
            _refuse_another(connection, cluster, system, data)
            sessions = standstill.clients(connection)
            notes = [*standstill.left_behind(connection, site.settings.cluster(cluster).wal.slot)]
            names = describe.databases(connection)
        for name in names:
            with server_errors(cluster), connect(site.recovery_connections(cluster), name) as connection:
                collations += (f"{name}: {one}" for one in describe.other_collations(connection))
    return SwitchPlan(
        cluster=cluster,
        folder=folder,
        data=data,
        before=_free_name(data, site.clock()) if old else None,
        system_identifier=system,
        timeline=int(control["Latest checkpoint's TimeLineID"]),
        major=major,
        alive=answers or works_in(data),
        sessions=sessions,
        bytes=size_of(old) if old else 0,
        collations=tuple(collations),
        notes=(*notes, *_undecided(folder, old)),
    )


def usual_folder(site: Site, cluster: str, stamp: str) -> Path:
    """Return where to recover to when nobody says: beside production's directory, whose place it can take by a rename.

    Where this machine does not control production, in the folder of recovered clusters.
    """
    control = site.settings.cluster(cluster).control
    if control is not None:
        data = control.data_directory.resolve()  # a link leads to where the rename is made
        if os.access(data.parent, os.W_OK | os.X_OK):
            return data.with_name(f"{data.name}.recovered_{stamp}")
    return site.settings.paths.recovered_folder / f"{cluster}_{stamp}"


def obstacle_to_switch(site: Site, cluster: str, into: Path) -> str:
    """Say why what will be recovered to ``into`` could not take production's place; nothing when it could."""
    control = site.settings.cluster(cluster).control
    if control is None:
        return "how production is stopped and started is not configured (`control`): people have to switch"
    data = control.data_directory.resolve()
    if not _is_renamable(into.parent, data) or into.is_relative_to(data):
        return f"it cannot take the place of {data} by a rename: recover into a folder on its filesystem, beside it"
    if _closed(into.parent, data, data.parent):
        return f"we may not rename {data}"
    return ""


def refuse_obstacle(site: Site, cluster: str, into: Path) -> None:
    """Raise RefusedError when what will be recovered to ``into`` could not take production's place."""
    obstacle = obstacle_to_switch(site, cluster, into)
    if obstacle:
        raise RefusedError(
            f"what is recovered to {into} could not replace {cluster}",
            detail=obstacle,
            hint="or recover beside only, and let people switch",
        )


def old_directories(site: Site, cluster: str) -> Iterator[Leftover]:
    """Yield the data directories that switches set aside, as far as they are known."""
    control = site.settings.cluster(cluster).control
    if control is not None:
        data = control.data_directory.resolve()
        for one in sorted(data.parent.glob(f"{data.name}{_BEFORE}*")):
            drop = shlex.join(("rm", "-r", str(one)))
            yield Leftover(str(one), f"{data} until a recovered cluster took its place", size_of(one), 0, drop)


def size_of(folder: Path) -> int:
    """Return how many bytes the files of a folder take."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a server may work in it
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - a million files
    return total


def _refuse_closed(folder: Path, data: Path) -> None:
    for place in _closed(folder, data, folder.parent, data.parent):
        raise UnfitError(f"we may not work in {place}", hint="run as the owner of the data directory, or as root")


def _closed(*places: Path) -> list[Path]:
    return [place for place in places if place.exists() and not os.access(place, os.R_OK | os.W_OK | os.X_OK)]


def _is_renamable(folder: Path, data: Path) -> bool:
    """Tell whether what is in, or at, ``folder`` can be renamed to ``data``."""
    return data.parent.is_dir() and folder.stat().st_dev == data.parent.stat().st_dev and not data.is_mount()


def _refuse_unfinished(folder: Path) -> None:
    if beside(folder).exists():
        raise RefusedError(f"the recovery into {folder} is not finished", hint="repeat it: it goes on where it was")
    if not (folder / "PG_VERSION").exists() or not is_settled(folder):
        raise RefusedError(f"{folder} is no recovered cluster", hint="`pgbackup recover cluster` makes one")
    if works_in(folder):
        raise RefusedError(
            f"a server runs in {folder}", hint=f"stop it: kill -INT $(head -n 1 {folder / 'postmaster.pid'})"
        )


def _refuse_place(folder: Path, data: Path, old: Path | None) -> None:
    if folder == data or folder in data.parents or data in folder.parents:
        raise RefusedError(f"{folder} and {data} lie in each other", hint="move the recovered directory beside")
    if not _is_renamable(folder, data):
        raise RefusedError(
            f"{folder} cannot take the place of {data} by a rename",
            hint="recover to a place on the same filesystem; a mount point itself cannot be renamed",
        )
    if old is not None and not (old / "PG_VERSION").exists():
        raise RefusedError(f"{old} is not a data directory", hint="if it is what is left of one, move it away")
    if old is not None and (old / "PG_VERSION").read_text() != (folder / "PG_VERSION").read_text():
        raise RefusedError(f"{folder} is of another major version than {old}")
    owner, wanted = folder.stat().st_uid, data.stat().st_uid if data.exists() else folder.stat().st_uid
    if owner != wanted:
        raise RefusedError(
            f"{folder} belongs to another user than {data}",
            hint=f"chown -R --reference={data} {folder}",
        )


def _control(site: Site, programs: Programs, data: Path) -> dict[str, str]:
    output, _ = site.runner.run(physical.read_control(programs, data))
    return physical.parse_control(output.decode(errors="replace"))


def _system(site: Site, cluster: str, programs: Programs, old: Path | None) -> str:
    """Return the cluster's system identifier: from what is there, else from its newest backup."""
    if old is not None:
        with contextlib.suppress(ProgramFailed):
            return _control(site, programs, old)["Database system identifier"]
    known = (read_holdings(site, store, cluster).system_identifier for store in site.repositories.values())
    return next(filter(None, known), "")


def _refuse_another(connection: Connection, cluster: str, system: str, data: Path) -> None:
    """Raise unless the server that answers is the one that works in ``data``, and we may stop writes in it."""
    found = replication.position(connection).system_identifier
    told = (data / "postmaster.pid").read_text().splitlines() if (data / "postmaster.pid").exists() else []
    [port] = connection.execute("SHOW port").fetchone() or ("",)
    if found != system or told[3:4] != [port]:
        raise RefusedError(
            f"the server that answers does not work in {data}",
            detail=f"system {found}, port {port}",
            hint=f"see clusters.{cluster}.control.data_directory",
        )
    if not standstill.is_superuser(connection):
        raise UnfitError("a superuser is needed to switch", hint=f"see clusters.{cluster}.recovery_connection")


def _free_name(data: Path, moment: datetime) -> Path:
    while (name := data.with_name(f"{data.name}{_BEFORE}{moment.astimezone(UTC):%Y%m%d_%H%M%S}")).exists():
        moment += timedelta(seconds=1)
    return name


def _undecided(folder: Path, old: Path | None) -> Iterator[str]:
    waiting = sum(1 for _ in (folder / "pg_twophase").iterdir())
    if waiting:
        yield f"{waiting} prepared transactions of the recovered cluster will wait for a decision"
    if old is not None and any((old / "pg_tblspc").glob("*")):  # what is left of a directory may lack it
        yield "tablespaces lie inside the recovered data directory"

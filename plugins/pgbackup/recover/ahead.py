"""What is asked for, and everything that would stop it: found before anybody is asked and anything is touched."""

from __future__ import annotations

import os
import re
import shutil
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgbackup.domain.errors import ConfigurationError, RefusedError, UnfitError
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.survey import survey
from pgbackup.domain.target import Target
from pgbackup.recover.cluster import last_manifest, refuse_another
from pgbackup.recover.planning import plan as plan_recovery
from pgbackup.recover.sources import anywhere
from pgbackup.recover.workplace import workplace
from pgbackup.restore.fitness import refuse_unfit
from pgbackup.restore.isolated import server_for
from pgbackup.restore.reach import read_holdings

_FOLDER = re.compile(r"(/[A-Za-z0-9_.+-]+)+")
"""Nothing that a shell or a configuration file would read as more than a name."""


@dataclass(frozen=True)
class Request:
    """A recovery of a cluster as it was asked for.

    ``timeline`` None is the newest, ``repository`` None whichever is best, ``port`` None starts no server.
    """

    target: Target
    into: Path
    timeline: int | None
    repository: str | None
    port: int | None


@dataclass(frozen=True)
class Foresight:
    """A request's plan; ``newest`` is the newest commit that its repository knows of, ``needs`` and ``free`` bytes."""

    request: Request
    plan: RecoveryPlan
    newest: datetime
    needs: int
    free: int


def foresee(site: Site, cluster: str, request: Request) -> Foresight:
    """Plan a request, and see that nothing is in its way: place, port, space, programs, extensions, keys.

    Raises RefusedError, with what can be reached, when the target cannot be; ConfigurationError, RefusedError or
    UnfitError for the rest.
    """
    _refuse_place(site, request.into)
    if request.port is not None:
        _refuse_port(request.port)
    with workplace(request.into) as place:
        begun = place.plan()
        if begun is not None:
            refuse_another(place, begun, (cluster, request.target, request.repository), request.timeline)
        plan = begun or plan_recovery(
            site, cluster, request.target, timeline=request.timeline, repository=request.repository
        )
        refuse_machine(site, plan, place.server)
    holdings = anywhere(site, plan.repositories, lambda store: read_holdings(site, store, cluster))
    newest = max(window.latest for window in survey(holdings, request.timeline).windows.values())
    needs, free = space(plan), shutil.disk_usage(request.into.parent).free
    if begun is None and needs > free:
        raise UnfitError(
            f"{needs / 1e6:.0f} MB are needed in {request.into.parent}, {free / 1e6:.0f} MB are free",
            hint="free space there, or recover into a folder on another disk",
        )
    return Foresight(request, plan, newest, needs, free)


def _refuse_place(site: Site, into: Path) -> None:
    paths = site.settings.paths
    if not _FOLDER.fullmatch(str(into)) or str(into) != os.path.normpath(into):
        raise ConfigurationError(
            "the folder must be an absolute path of plain names",
            detail=repr(str(into)[:200]),
            hint=f"such as {paths.recovered_folder}/monday",
        )
    if into.is_relative_to(paths.backups) and not into.is_relative_to(paths.recovered_folder):
        raise ConfigurationError(
            f"{into} is in the repository", hint=f"recover into {paths.recovered_folder}, or outside of {paths.backups}"
        )
    if into.parent == paths.recovered_folder:
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _refuse_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RefusedError(
                f"port {port} cannot be used here", detail=error.strerror, hint="choose another one, or none"
            ) from None


def refuse_machine(site: Site, plan: RecoveryPlan, folder: Path) -> Manifest:
    """Return the manifest of the chain's end; raises UnfitError when programs, extensions or keys are missing."""
    last = last_manifest(site, plan)
    refuse_unfit(last, server_for(site, last, folder).programs, site.runner)
    if last.encrypted:
        with site.keyring.opened():
            pass
    return last


def space(plan: RecoveryPlan) -> int:
    """Return the bytes that a recovery takes at its widest: stored files, unpacked ones, combined ones, WAL."""
    sizes = {step.name: step.bytes for step in plan.steps}
    unpacked = sizes["unpack, check, combine"] * (2 if len(plan.chain) > 1 else 1)
    return sizes["fetch and decrypt"] + unpacked + sizes["stage WAL"]

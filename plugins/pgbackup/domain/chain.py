"""Chains of physical backups: a base and the incrementals on it, and what the next backup has to be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.manifest import Manifest, Server
from pgbackup.domain.model import Kind
from pgbackup.domain.settings import IncrementalBackup

Method = Literal["block", "wal"]


@dataclass(frozen=True)
class Next:
    """What an incremental run takes: an incremental on ``parent``, or a base, and why."""

    method: Method | None
    parent: Manifest | None
    reason: str


def chain_of(manifest: Manifest, known: Mapping[str, Manifest]) -> tuple[Manifest, ...]:
    """Return a backup's chain, the base first; raises RefusedError when a link is missing or does not fit."""
    links = [manifest]
    while links[0].kind is Kind.INCREMENTAL:
        child = links[0]
        parent = known.get(child.parent or "")
        if parent is None:
            raise RefusedError(
                f"{child.id} stands on {child.parent}, which is not there",
                hint="verify or recover from a repository that holds the whole chain",
            )
        if (parent.server.system_identifier, parent.cluster) != (child.server.system_identifier, child.cluster):
            raise RefusedError(f"{child.id} and its parent {parent.id} are of different systems")
        if parent in links:
            raise RefusedError(f"the chain of {manifest.id} is a circle")
        links.insert(0, parent)
    return tuple(links)


def data_links(chain: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """Return the links that hold files: the base and the block incrementals, in order."""
    return tuple(link for link in chain if link.method != "wal")


def next_backup(
    newest: tuple[Manifest, ...],
    server: Server,
    options: IncrementalBackup,
    *,
    summarizes: bool,
    has_backup_manifest: bool,
) -> Next:
    """Decide what an incremental run takes.

    ``newest`` is the chain of the newest physical backup that is not rejected, empty when there is none;
    ``summarizes`` says that the server keeps WAL summaries, ``has_backup_manifest`` that the backup_manifest of the
    newest link with files is still at hand in the clear.
    """
    obstacle = _obstacle(newest, server, options)
    if obstacle is not None:
        return Next(None, None, obstacle)
    parent = newest[-1]
    if options.method != "wal" and summarizes and has_backup_manifest:
        return Next("block", data_links(newest)[-1], "the server knows the changed blocks")
    if options.method == "block":
        missing = "its backup_manifest is not at hand" if summarizes else "the server does not summarize WAL"
        return Next(None, None, f"no block incremental on {parent.id}: {missing}")
    return Next("wal", parent, "configured" if options.method == "wal" else "no block incremental is possible")


def _obstacle(newest: tuple[Manifest, ...], server: Server, options: IncrementalBackup) -> str | None:
    """Say why no incremental at all can stand on the newest chain."""
    if not newest:
        return "there is no base backup that an incremental could stand on"
    parent, base = newest[-1], newest[0]
    if parent.server.system_identifier != server.system_identifier:
        return f"{parent.id} is of another system: the server was upgraded or made anew"
    if parent.server.timeline != server.timeline:
        return f"the server is on timeline {server.timeline}, {parent.id} on {parent.server.timeline}"
    if len(newest) > options.longest_chain:
        return f"the chain of {base.id} has {len(newest) - 1} incrementals"
    return None

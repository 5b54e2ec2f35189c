"""A chain of physical backups as one repository holds it: fetched link by link, unpacked, combined, with its WAL."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pgbackup.domain.chain import chain_of, data_links
from pgbackup.domain.errors import ProgramFailed, RefusedError
from pgbackup.domain.ids import KEY_FILE, BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import File, Manifest
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Runner, Site, Store
from pgbackup.domain.wal import Segment, is_segment, stretches
from pgbackup.postgres import physical
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.archive import fetch_wal, list_archive
from pgbackup.restore.fetch import Description, describe_copy, fetch_file, open_passphrase
from pgbackup.restore.measure import measured
from pgbackup.store import LocalStore

log = logging.getLogger(__name__)

_DATA = ".tar.zst"
_BUNDLE = "wal.tar"
_OWN_WAL = "wal.tar.zst"


@dataclass(frozen=True)
class Link:
    """A backup of a chain, the repository that it came from, and the folder that its decrypted files are in."""

    manifest: Manifest
    repository: str
    files: Path


def read_chain(site: Site, store: Store, backup_id: str) -> tuple[Description, ...]:
    """Read the manifests of a backup's chain, the base first; raises RefusedError when a link is missing or damaged."""
    found: dict[str, Description] = {}
    wanted: str | None = backup_id
    while wanted is not None and wanted not in found:
        found[wanted] = describe_copy(site, store, BackupId.parse(wanted))
        wanted = found[wanted].manifest.parent
    known = {name: description.manifest for name, description in found.items()}
    return tuple(found[link.id] for link in chain_of(known[backup_id], known))


def fetch_links(
    site: Site, store: Store, descriptions: Sequence[Description], files: Path, *, jobs: int
) -> tuple[Link, ...]:
    """Bring the files of links, checked and decrypted, each link's into a folder of its id; what is there stays."""
    missing = {one.manifest.id: _missing(site, one, files / one.manifest.id) for one in descriptions}
    size = sum(file.stored_bytes for some in missing.values() for file in some)

    def fetch(description: Description) -> Link:
        manifest = description.manifest
        passphrase = open_passphrase(site, store, description)
        for file in missing[manifest.id]:
            fetch_file(site, store, description, file, passphrase, files / manifest.id)
        return Link(manifest, store.name, files / manifest.id)

    with (
        measured(site, descriptions[-1].manifest.cluster, store.name, "fetch", lambda: size),
        ThreadPoolExecutor(max_workers=jobs) as pool,
    ):
        return tuple(pool.map(fetch, descriptions))


def _missing(site: Site, description: Description, folder: Path) -> list[File]:
    suffix = site.keyring.suffix if description.manifest.encrypted else ""
    missing = []
    for file in description.manifest.files:
        here = folder / file.name.removesuffix(suffix)
        unpacked = here.with_suffix("") if here.name.endswith(".dir.tar") else here
        if not KEY_FILE.fullmatch(file.name) and not unpacked.exists():
            missing.append(file)
    return missing


def unpack_chain(site: Site, server: ThrowAwayServer, links: Sequence[Link], *, jobs: int) -> None:
    """Make one data directory of a chain, with all of its WAL in pg_wal.

    Every link's files are compared with its backup_manifest (pg_verifybackup); then the WAL from the last link with
    files on is checked for gaps. Raises RefusedError for what the backups did.
    """
    with_files = {manifest.id for manifest in data_links(tuple(link.manifest for link in links))}
    data = [link for link in links if link.manifest.id in with_files]
    server.discard()
    server.folder.mkdir(mode=0o700, parents=True)
    folders = [server.data] if len(data) == 1 else [server.folder / "links" / link.manifest.id for link in data]
    origin = data[-1].manifest.cluster, data[-1].repository
    with measured(site, *origin, "unpack", lambda: _size(folders)), ThreadPoolExecutor(max_workers=jobs) as pool:
        tuple(pool.map(partial(_unpack_files, site.runner, server), data, folders))
    if len(data) > 1:
        with measured(site, *origin, "combine", lambda: _size(folders)):
            _combine(site.runner, server, tuple(folders))
        shutil.rmtree(server.folder / "links")
    lay_out_wal(site, server, links[links.index(data[-1]) :], jobs=jobs)


def lay_out_wal(site: Site, server: ThrowAwayServer, links: Sequence[Link], *, jobs: int) -> None:
    """Put the WAL of a link with files and of the bundles behind it into pg_wal; raises RefusedError for a gap."""
    folder = server.data / "pg_wal"
    unpack(site.runner, links[0].files / _OWN_WAL, folder)
    own = _size([folder])
    with measured(site, links[0].manifest.cluster, links[0].repository, "stage", lambda: _size([folder]) - own):
        for link in links[1:]:
            bundle = link.files / "bundle"
            bundle.mkdir(mode=0o700, exist_ok=True)
            unpack(site.runner, link.files / _BUNDLE, bundle)
            listing = list_archive(LocalStore(bundle), link.manifest.cluster, link.manifest.server.system_identifier)
            with site.keyring.opened() as unlock:
                fetch_wal(site, LocalStore(bundle), tuple(listing.segments.values()), folder, unlock, jobs=jobs)
    refuse_gap(folder, links[0].manifest, Lsn.parse(links[-1].manifest.end_lsn or ""))


def refuse_gap(folder: Path, first: Manifest, end: Lsn) -> None:
    """Raise RefusedError unless a folder holds all WAL from a backup's start to ``end`` on the backup's timeline."""
    names = [path.name for path in folder.iterdir() if is_segment(path.name)]
    size = (folder / names[0]).stat().st_size if names else 0
    segments = [Segment.parse(name, size) for name in names]
    start = Lsn.parse(first.start_lsn or "")
    here = stretches(segment for segment in segments if segment.timeline == first.server.timeline)
    if not any(one.start <= start and end <= one.end for one in here):
        held = ", ".join(f"{one.start} to {one.end}" for one in here) or "nothing"
        raise RefusedError(
            f"the WAL from {start} to {end} has a gap", detail=f"held: {held}", hint="take a new base backup"
        )


def _size(folders: Sequence[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def unpack(runner: Runner, archive: Path, folder: Path) -> None:
    """Unpack one of our tar files; raises RefusedError when it is damaged."""
    decompress = ("--use-compress-program=zstd --quiet",) if archive.name.endswith(".zst") else ()
    command = ("tar", "--extract", "--no-same-owner", f"--file={archive}", *decompress, f"--directory={folder}")
    try:
        runner.run(Command(command))
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise RefusedError(f"{archive.name} does not unpack", detail=error.detail) from None


def _unpack_files(runner: Runner, server: ThrowAwayServer, link: Link, folder: Path) -> None:
    """Unpack one link and check it. Tablespaces become plain folders inside: nothing leads to the source's paths."""
    folder.mkdir(mode=0o700, parents=True)
    unpack(runner, link.files / f"base{_DATA}", folder)
    for archive in sorted(link.files.glob(f"*{_DATA}")):
        name = archive.name.removesuffix(_DATA)
        if name.isdigit():
            tablespace = folder / "pg_tblspc" / name
            tablespace.unlink(missing_ok=True)
            tablespace.mkdir(mode=0o700)
            unpack(runner, archive, tablespace)
    shutil.copy(link.files / "backup_manifest", folder / "backup_manifest")
    try:
        runner.run(physical.verify_backup(server.programs, folder))
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise RefusedError(
            f"files of {link.manifest.id} differ from its backup_manifest", detail=error.detail
        ) from None


def _combine(runner: Runner, server: ThrowAwayServer, folders: tuple[Path, ...]) -> None:
    try:
        runner.run(physical.combine(server.programs, folders, server.data, major=server.major))
    except ProgramFailed as error:
        if error.by_machine:
            raise
        raise RefusedError("the links of the chain do not combine", detail=error.detail) from None


def marked_groups(manifest: Manifest) -> Mapping[Lsn, tuple[str, ...]]:
    """Return each marked point with the databases that it proves, in the order of replay.

    A database without rows to compare goes with the last point. Empty when one with rows has no marked point: then
    nobody can tell whether the backup equals its source.
    """
    groups: dict[Lsn, tuple[str, ...]] = {}
    unmarked: list[str] = []
    for entry in manifest.databases:
        if entry.marked_lsn is not None:
            point = Lsn.parse(entry.marked_lsn)
            groups[point] = (*groups.get(point, ()), entry.name)
        else:
            unmarked.append(entry.name)
    ordered = dict(sorted(groups.items()))
    with_rows = {
        entry.name
        for entry in manifest.databases
        if any(table.content and table.content.rows for table in entry.tables)
    }
    if ordered and with_rows.isdisjoint(unmarked):
        last = max(ordered)
        ordered[last] = (*ordered[last], *unmarked)
        return ordered
    return {}

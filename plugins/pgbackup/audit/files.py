"""Files and folders of ours on this machine: who may read them, whose they are, where links and mounts lead."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.audit import names
from pgbackup.audit.judge import Wrong
from pgbackup.domain.errors import UnfitError
from pgbackup.domain.model import Finding, Severity

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Entry:
    """A file or folder as lstat() sees it; ``target`` is where a link leads."""

    path: Path
    mode: int
    owner: int
    device: int
    target: Path | None = None


def audit_folder(root: Path, *, scratch: Collection[Path] = ()) -> Iterator[Finding]:
    """Judge a folder and all that is in it, dot names as well; raises UnfitError when it cannot be read.

    Of a folder of ``scratch`` only that it is private counts: throw-away servers write there, as the user and with the
    modes that they have, and nobody else comes through to them.
    """
    real = root.resolve()
    return judge_entries(real, walk(real, {one.resolve() for one in scratch}), account=os.geteuid())


def judge_entries(root: Path, entries: Iterable[Entry], *, account: int) -> Iterator[Finding]:
    """Judge what a walk found, the folder itself first; root may audit another account's folder."""
    private = Wrong(names.PRIVATE, f"chmod -R u=rwX,go= {root}")
    owner = Wrong(names.OWNER, f"find out who wrote there; chown -R to the account that runs the backups: {root}")
    links = Wrong(names.LINKS, "remove the link: what it leads to is not protected as a repository is")
    devices = Wrong(
        names.ONE_FILE_SYSTEM, "look at what is mounted there: its space and safety differ", Severity.WARNING
    )
    count, device = 0, None
    for one in entries:
        count += 1
        if device is None:
            device, account = one.device, one.owner if account == 0 else account
        if one.target is not None:
            if not one.target.is_relative_to(root):
                links.add(f"{one.path} -> {one.target}")
            continue
        if one.mode & _OTHERS:
            private.add(f"{one.path} has mode {stat.S_IMODE(one.mode):04o}")
        if one.owner != account:
            owner.add(f"{one.path} belongs to user {one.owner}, not {account}")
        if one.device != device:
            devices.add(str(one.path))
    yield private.finding(f"{count} files and folders looked at")
    for wrong in (owner, links, devices):
        yield wrong.finding()


def walk(root: Path, scratch: Collection[Path] = ()) -> Iterator[Entry]:
    """Yield a folder and what is in it, one folder after the other; what vanishes meanwhile is left out."""
    try:
        yield _entry(root)
    except OSError as error:
        raise UnfitError(f"cannot read {root}", detail=error.strerror) from None
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        for path in _names(folder):
            try:
                one = _entry(path)
            except FileNotFoundError:
                continue
            yield one
            if stat.S_ISDIR(one.mode) and path not in scratch:
                waiting.append(path)


def audit_secrets(paths: Iterable[Path]) -> Finding:
    """Judge what holds keys, passwords or decrypted files; what is missing here is not judged."""
    wrong = Wrong(names.SECRETS, "chmod go= PATH, and chown it to the account that runs the backups")
    count = 0
    for path in sorted(set(paths)):
        try:
            found = path.stat()
        except OSError:
            continue
        count += 1
        if found.st_mode & _OTHERS:
            wrong.add(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}")
        if found.st_uid not in {os.geteuid(), 0}:
            wrong.add(f"{path} belongs to user {found.st_uid}")
    return wrong.finding(f"{count} files and folders looked at")


def audit_logs(folder: Path) -> Finding:
    """Judge the log files: 0640, in a folder of 0750, or less."""
    wrong = Wrong(names.LOGS, f"chmod -R u=rwX,g=rX,o= {folder}")
    count = 0
    for one in walk(folder) if folder.is_dir() else ():
        count += 1
        if one.target is None and one.mode & (stat.S_IWGRP | stat.S_IRWXO):
            wrong.add(f"{one.path} has mode {stat.S_IMODE(one.mode):04o}")
    return wrong.finding(f"{count} files and folders looked at")


def _entry(path: Path) -> Entry:
    found = path.lstat()
    target = path.resolve() if stat.S_ISLNK(found.st_mode) else None
    return Entry(path, found.st_mode, found.st_uid, found.st_dev, target)


def _names(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnfitError(f"cannot read {folder}", detail=error.strerror) from None

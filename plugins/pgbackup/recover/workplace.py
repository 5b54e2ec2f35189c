"""Where a recovery is made: a private folder beside the one that it will become, which no other process works in.

It holds the plan that is being carried out, so that whoever repeats the command after a kill goes on with the same one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pgbackup.domain.errors import BusyError, RefusedError, UnfitError
from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.scratch import held

_SUFFIX = ".pgbackup"
_PLAN = "plan.json"
_DONE = "done-"
_plans = TypeAdapter(RecoveryPlan)


@dataclass(frozen=True)
class Workplace:
    """The folder beside ``into``, which is held by this process."""

    into: Path
    folder: Path

    @property
    def files(self) -> Path:
        """Where the decrypted files of the links are, one folder each."""
        return self.folder / "files"

    @property
    def server(self) -> Path:
        """The throw-away server's folder; its data directory becomes ``into``."""
        return self.folder / "server"

    @property
    def config(self) -> Path:
        """The source's own configuration, while the isolated server has another one."""
        return self.folder / "config"

    @property
    def result(self) -> Path:
        """What was recovered; from then on replay is over."""
        return self.folder / "result.json"

    def plan(self) -> RecoveryPlan | None:
        """Return the plan that is being carried out; raises RefusedError when another version wrote it."""
        try:
            return _plans.validate_json((self.folder / _PLAN).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise RefusedError(
                f"the plan in {self.folder} is not one that this version reads", hint=f"rm -r {self.folder}"
            ) from None

    def take_up(self, plan: RecoveryPlan) -> None:
        """Keep the plan."""
        write_whole(self.folder / _PLAN, _plans.dump_json(plan, indent=1))

    def once(self, step: str, do: Callable[[], None]) -> None:
        """Do what no earlier run has finished."""
        mark = self.folder / f"{_DONE}{step}"
        if not mark.exists():
            do()
            mark.touch(mode=0o600)

    def is_done(self, step: str) -> bool:
        """Tell whether a step was finished, in this run or an earlier one."""
        return (self.folder / f"{_DONE}{step}").exists()

    def publish(self, data: Path) -> None:
        """Let a data directory appear at its place, at once."""
        try:
            data.rename(self.into)
        except OSError as error:
            raise RefusedError(
                f"{self.into} is not empty any more", detail=error.strerror, hint=f"the recovery is complete: {data}"
            ) from None
        sync_folder(self.into.parent)

    def empty(self) -> None:
        """Remove what is in the folder; the plan, by which it is known as ours, comes last."""
        for path in sorted(self.folder.iterdir(), key=lambda one: one.name == _PLAN):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def remove(self) -> None:
        """Remove the folder; its name is free at once."""
        removed = self.folder.with_name(f".{self.folder.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)  # of one who was killed
        self.folder.rename(removed)
        shutil.rmtree(removed)


def beside(into: Path) -> Path:
    """Return the folder in which a recovery into a directory is made."""
    return into.with_name(into.name + _SUFFIX)


@contextlib.contextmanager
def workplace(into: Path) -> Iterator[Workplace]:
    """Hold the folder beside ``into``, made when missing, removed again when nothing was put into it.

    Raises RefusedError, having touched nothing, when ``into`` or the folder beside it holds something of others, and
    BusyError when another process recovers into the same place.
    """
    place = Workplace(into.absolute(), beside(into.absolute()))
    _refuse_foreign(place)
    try:
        place.folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnfitError(
            f"cannot make {place.folder}", detail=error.strerror, hint="its parent folder must be there, and writable"
        ) from None
    with held(place.folder, BusyError(f"another process recovers into {into}", hint="wait for it to end")):
        try:
            yield place
        finally:
            with contextlib.suppress(OSError):
                place.folder.rmdir()


def write_whole(path: Path, text: bytes) -> None:
    """Write a small file of mode 0600: it is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _refuse_foreign(place: Workplace) -> None:
    names = {path.name for path in place.folder.iterdir()} if place.folder.is_dir() else set()
    if place.folder.exists() and _PLAN not in names and names - {f".{_PLAN}"}:
        raise RefusedError(f"{place.folder} is not a recovery of ours", hint="move it away, or recover elsewhere")
    taken = place.into.exists() and (not place.into.is_dir() or any(place.into.iterdir()))
    if taken and not place.result.exists():  # otherwise it may be what we put there before we were killed
        raise RefusedError(
            f"{place.into} is not an empty directory", hint="recover into another one: nothing is overwritten"
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

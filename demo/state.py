"""What the supervisor says of its units: a small file that `up`, `status` and `down` read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from demo.layout import write_private

UnitPhase = Literal["waiting", "starting", "ready", "done", "stopping", "stopped", "down", "failed"]
Phase = Literal["starting", "ready", "stopping", "stopped", "failed"]


@dataclass(frozen=True)
class UnitState:
    """How far one unit is; ``seconds`` from its start until it was ready or done."""

    phase: UnitPhase = "waiting"
    pid: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Failure:
    """What made the demo fail: which unit, how it ended, and the last it said."""

    unit: str
    what: str
    log: str
    tail: str


@dataclass(frozen=True)
class State:
    """The whole stack."""

    phase: Phase
    units: Mapping[str, UnitState] = field(default_factory=dict)
    failure: Failure | None = None

    def write(self, path: Path) -> None:
        """Replace the file in one step."""
        write_private(path, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> "State | None":
        """What was last written, if anything."""
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        units = {name: UnitState(**unit) for name, unit in document["units"].items()}
        failure = Failure(**document["failure"]) if document["failure"] else None
        return cls(document["phase"], units, failure)


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

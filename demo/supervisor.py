"""Runs the demo's units and owns every process of theirs.

Two processes: the supervisor, which starts, watches and stops the units, and above it a guard that does
nothing but end whatever is left when the supervisor is gone, however it went. Both adopt orphans, so that
nothing escapes by starting a session of its own (Airflow's tasks do). If even both are killed at once, each
unit still gets its parent-death signal.
"""

import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from demo.processes import Process, adopt_orphans, descendants, die_with_parent, end_descendants, reap
from demo.state import Failure, Phase, State, UnitState, tail

PAUSE = 0.1
GUARD_PATIENCE = 15.0


def always(_pid: int) -> bool:
    """Ready as soon as it runs."""
    return True


@dataclass(frozen=True)
class Unit:
    """A command that runs as long as the demo (a ``task``: once), after other units are ready or done.

    ``is_ready`` is asked about the unit's pid until it says yes. ``patience`` is how many seconds it may
    take to end once it got ``stop``; units stop in waves, highest number first. A unit with a ``held`` file may be
    down: it is stopped when the file appears, started when it goes, and its end by itself puts the file there.
    """

    name: str
    argv: Sequence[str]
    after: Sequence[str] = ()
    task: bool = False
    is_ready: Callable[[int], bool] = always
    environment: Mapping[str, str] | None = None
    stop: signal.Signals = signal.SIGTERM
    patience: float = 10.0
    wave: int = 0
    held: Path | None = None


class UnitFailedError(Exception):
    """A unit ended although it should not have, or not as it should have."""

    def __init__(self, unit: str, what: str) -> None:
        super().__init__(f"{unit} {what}")
        self.unit = unit
        self.what = what


class Supervisor:
    """Starts units in the order of their dependencies, watches them, stops them."""

    def __init__(self, units: Sequence[Unit], *, logs: Path, state: Path) -> None:
        self.units = {unit.name: unit for unit in units}
        self.states = {unit.name: UnitState() for unit in units}
        self.started: dict[str, float] = {}
        self.running: dict[int, str] = {}
        self.logs = logs
        self.state = state
        self.phase: Phase = "starting"
        self.failure: Failure | None = None
        self.stop_requested = False

    def request_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Signal handler: end `run`."""
        self.stop_requested = True

    def run(self) -> int:
        """Run until a unit fails (1) or a stop is requested (0); nothing of ours lives afterwards."""
        self.report()
        try:
            while not self.stop_requested:
                self.notice_holds()
                self.start_what_can_start()
                self.notice_ends()
                self.notice_readiness()
                time.sleep(PAUSE)
            self.phase = "stopping"
        except UnitFailedError as error:
            self.failed(error.unit, error.what)
        except Exception as error:
            self.failed("supervisor", f"failed: {error!r}")
            raise
        finally:
            self.stop_all()
        self.phase = "failed" if self.failure else "stopped"
        self.report()
        return 1 if self.failure else 0

    def report(self) -> None:
        """Write the state file."""
        State(self.phase, self.states, self.failure).write(self.state)

    def note(self, name: str, state: UnitState) -> None:
        """Change a unit's state."""
        self.states[name] = state
        self.report()

    def start_what_can_start(self) -> None:
        """Start every waiting unit whose dependencies are there."""
        for name, unit in self.units.items():
            dependencies = all(self.states[other].phase in {"ready", "done"} for other in unit.after)
            if self.states[name].phase == "waiting" and dependencies:
                self.start(unit)

    def notice_holds(self) -> None:
        """Stop what is to be down, let start what is to be down no more."""
        pids = {name: pid for pid, name in self.running.items()}
        for name, unit in self.units.items():
            if unit.held is None:
                continue
            phase, held = self.states[name].phase, unit.held.exists()
            if held and phase in {"starting", "ready"}:
                self.note(name, replace(self.states[name], phase="stopping"))
                os.kill(pids[name], unit.stop)
            elif not held and phase == "down":
                self.note(name, UnitState("waiting"))

    def start(self, unit: Unit) -> None:
        """Start one unit in a session of its own, its output going to its log."""
        log = str(self.logs / f"{unit.name}.log")
        pid = os.posix_spawnp(
            unit.argv[0],
            list(unit.argv),
            os.environ if unit.environment is None else unit.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self.started[unit.name] = time.monotonic()
        self.running[pid] = unit.name
        self.note(unit.name, UnitState("starting", pid))

    def notice_ends(self) -> None:
        """Take note of tasks that are done; raises UnitFailedError for anything else that ended."""
        for pid, status in reap():
            name = self.running.pop(pid, None)
            if name is None:
                continue  # an adopted orphan
            held = self.units[name].held
            if status == 0 and self.units[name].task:
                self.note(name, UnitState("done", None, self.age(name)))
            elif held is not None and self.phase == "ready":
                held.touch()
                self.note(name, UnitState("down"))
            elif status < 0:
                raise UnitFailedError(name, f"was killed by {signal.Signals(-status).name}")
            else:
                raise UnitFailedError(name, f"ended with exit status {status}")

    def notice_readiness(self) -> None:
        """Ask starting units whether they are ready."""
        for pid, name in self.running.items():
            unit = self.units[name]
            if self.states[name].phase == "starting" and not unit.task and unit.is_ready(pid):
                self.note(name, UnitState("ready", pid, self.age(name)))
        if self.phase == "starting" and all(state.phase in {"ready", "done"} for state in self.states.values()):
            self.phase = "ready"
            self.report()

    def age(self, name: str) -> float:
        """Seconds since a unit was started."""
        return round(time.monotonic() - self.started[name], 1)

    def failed(self, name: str, what: str) -> None:
        """Remember why the demo ends."""
        log = self.logs / f"{name}.log"
        self.phase, self.failure = "failed", Failure(name, what, str(log), tail(log))
        if name in self.states:
            self.states[name] = replace(self.states[name], phase="failed", pid=None)
        self.report()

    def stop_all(self) -> None:
        """Stop wave after wave, with every process that a unit started; then whatever is left."""
        for wave in sorted({unit.wave for unit in self.units.values()}, reverse=True):
            self.stop_wave({pid: name for pid, name in self.running.items() if self.units[name].wave == wave})
        end_descendants(os.getpid(), patience=0)

    def stop_wave(self, members: dict[int, str]) -> None:
        """Ask ``members`` to end, together; kill those that outlive their patience, and their descendants."""
        for pid, name in members.items():
            self.note(name, replace(self.states[name], phase="stopping"))
            os.kill(pid, self.units[name].stop)
        began = time.monotonic()
        while alive := {pid: name for pid, name in members.items() if pid in self.running}:
            for pid, name in alive.items():
                if time.monotonic() - began > self.units[name].patience:
                    for process in [*descendants(pid), Process.of(pid)]:
                        process.send(signal.SIGKILL)
            time.sleep(PAUSE)
            for pid, _ in reap():
                if name := self.running.pop(pid, ""):
                    self.note(name, replace(self.states[name], phase="stopped", pid=None))


def supervise(units: Callable[[], Sequence[Unit]], *, lock: Path, pid_file: Path, logs: Path, state: Path) -> int:
    """Run guard and supervisor; returns 0 after a requested stop, 1 after a failure, 75 if one runs."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another supervisor runs already", file=sys.stderr)
            return 75
        adopt_orphans()
        guard = os.getpid()
        child = os.fork()
        if child == 0:
            os._exit(_supervisor(units, guard, pid_file, logs, state))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: os.kill(child, received))
        return _guard(child, pid_file, state)


def _supervisor(units: Callable[[], Sequence[Unit]], guard: int, pid_file: Path, logs: Path, state: Path) -> int:
    """The child: supervise until the end; the parent-death signal is a request to stop."""
    try:
        supervisor = Supervisor(units(), logs=logs, state=state)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.request_stop)
        adopt_orphans()
        die_with_parent(signal.SIGTERM, guard)
        Process.current().write(pid_file)
        return supervisor.run()
    except BaseException:  # noqa: BLE001 - the last frame of a forked child
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def _guard(child: int, pid_file: Path, state: Path) -> int:
    """Wait for the supervisor, then for everything else to be gone."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end_descendants(os.getpid(), patience=GUARD_PATIENCE)
    if status < 0:
        last = State.read(state)
        what = f"was killed by {signal.Signals(-status).name}; what it had started was ended"
        State("failed", last.units if last else {}, Failure("supervisor", what, "", "")).write(state)
    pid_file.unlink(missing_ok=True)
    return abs(status)

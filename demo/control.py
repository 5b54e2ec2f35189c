"""Start and stop the supervisor from outside, and see how far it is."""

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from demo.airflow_settings import write_passwords
from demo.board import Row, board
from demo.config import write_libpq_files, write_protocol
from demo.layout import Layout, choose_ports, load_secrets
from demo.processes import Process
from demo.state import Failure, State, tail

START_PATIENCE = 300.0
STOP_PATIENCE = 120.0
LEAVING = {"stopping", "stopped"}


class DemoFailedError(Exception):
    """The stack could not be started or stopped; the message says what failed and where to look."""


def is_running(layout: Layout) -> bool:
    """Whether a supervisor, or its guard, lives."""
    try:
        with layout.lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def start(layout: Layout) -> None:
    """Start the supervisor, detached, unless it runs; then follow it until every unit is ready."""
    layout.make()
    with (layout.home / "start.lock").open("w") as lock:  # two at once: the second finds what the first started
        fcntl.flock(lock, fcntl.LOCK_EX)
        supervised = start_supervisor(layout)
    follow(layout, supervised)


def start_supervisor(layout: Layout) -> Callable[[], bool]:
    """Start the supervisor unless it runs; returns how to ask whether it lives."""
    if is_running(layout) and (state := State.read(layout.state)) and state.phase in {"stopping", "failed"}:
        wait_until_gone(layout)
    if is_running(layout):
        return lambda: is_running(layout)
    ports, secrets = choose_ports(layout), load_secrets(layout)
    write_passwords(layout, secrets)
    write_protocol(layout)
    write_libpq_files(layout, ports, secrets)
    layout.state.unlink(missing_ok=True)
    layout.held("streamflix").unlink(missing_ok=True)
    with (layout.logs / "supervisor.log").open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, "-m", "demo", "supervise"],
            cwd=layout.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while guard.poll() is None and not is_running(layout):
        time.sleep(0.05)
    return lambda: guard.poll() is None


def follow(layout: Layout, supervised: Callable[[], bool]) -> None:
    """Show the units until all are ready; raises DemoFailedError when one fails or time runs out."""
    until = time.monotonic() + START_PATIENCE
    with board("Starting PostgreSQL, Airflow and a mailbox") as shown:
        while True:
            alive = supervised()
            state = State.read(layout.state) or State("starting")
            shown.update(rows(layout))
            if alive and state.phase == "ready":
                return
            if state.failure:
                wait_until_gone(layout)
                raise DemoFailedError(describe(state.failure))
            if not alive or state.phase in {"stopping", "stopped"}:
                log = layout.logs / "supervisor.log"
                raise DemoFailedError(f"the supervisor ended while the demo started\n{tail(log)}")
            if time.monotonic() > until:
                slow = ", ".join(name for name, unit in state.units.items() if unit.phase == "starting")
                raise DemoFailedError(f"not ready after {START_PATIENCE:.0f} s: {slow}; see {layout.logs}")
            time.sleep(0.2)


def rows(layout: Layout) -> Iterator[Row]:
    """The units as lines of a board."""
    state = State.read(layout.state) or State("starting")
    return (Row(name, unit.phase, unit.seconds) for name, unit in state.units.items())


def describe(failure: Failure) -> str:
    """A failure as text: what, the last it said, where the rest is."""
    said = f", having said:\n{failure.tail}" if failure.tail else ""
    return f"{failure.unit} {failure.what}{said}" + (f"\n(the whole log: {failure.log})" if failure.log else "")


def stop(layout: Layout) -> bool:
    """Stop the supervisor and all that it started; False when nothing ran."""
    if not is_running(layout):
        return False
    with board("Stopping") as shown:
        signal_supervisor(layout, signal.SIGTERM)
        wait_until_gone(layout, lambda: shown.update(row for row in rows(layout) if row.state in LEAVING))
    return True


def signal_supervisor(layout: Layout, number: signal.Signals) -> None:
    """Send the supervisor a signal: the process that wrote the pid file, never a stranger with its number."""
    if supervisor := Process.read(layout.pid_file):
        supervisor.send(number)


def hold(layout: Layout, unit: str) -> None:
    """Stop a unit that may be down, and see that it is; the demo goes on without it."""
    layout.held(unit).touch()
    wait_for(layout, unit, "down")


def release(layout: Layout, unit: str) -> None:
    """Start a unit that is down, and see that it is ready."""
    layout.held(unit).unlink(missing_ok=True)
    wait_for(layout, unit, "ready")


def wait_for(layout: Layout, unit: str, phase: str) -> None:
    """Wait until a unit is in a phase; raises DemoFailedError when it does not get there."""
    until = time.monotonic() + STOP_PATIENCE
    while (state := State.read(layout.state)) is None or state.units[unit].phase != phase:
        if state and state.units[unit].phase == "down" and layout.held(unit).exists():
            log = layout.logs / f"{unit}.log"
            raise DemoFailedError(f"{unit} does not start\n{tail(log)}\n(the whole log: {log})")
        if not is_running(layout) or time.monotonic() > until:
            raise DemoFailedError(f"{unit} is not {phase}; see {layout.logs}")
        time.sleep(0.1)


def wait_until_gone(layout: Layout, show: Callable[[], None] = lambda: None) -> None:
    """Wait until nothing of the demo lives; a hanging supervisor is killed, and its guard ends the rest."""
    began, killed = time.monotonic(), False
    while is_running(layout):
        show()
        if not killed and time.monotonic() - began > STOP_PATIENCE:
            killed = True
            signal_supervisor(layout, signal.SIGKILL)
        if time.monotonic() - began > 2 * STOP_PATIENCE:
            raise DemoFailedError(f"the demo does not stop; its supervisor's pid is in {layout.pid_file}")
        time.sleep(0.2)
    show()

"""``python -m demo up|drill|down|status``; `up` starts ``supervise`` in the background.

``stop-server`` and ``start-server`` are how the protected server's recovery is told to stop and start it.
"""

import argparse
import sys
from collections.abc import Callable

from demo import config, control, drill, evidence, stack
from demo.airflow_settings import ADMIN
from demo.board import console
from demo.layout import LOOPBACK, Layout, load_secrets, read_ports
from demo.rest import Airflow, AirflowError
from demo.state import State
from demo.supervisor import supervise


def up(layout: Layout) -> int:
    """Start the stack, make and verify a backup, print the evidence; leave the stack running."""
    if not layout.sample.exists():
        raise control.DemoFailedError(f"{layout.sample} is missing")
    control.start(layout)
    url, password = address(layout), load_secrets(layout)["ui_admin"]
    evidence.prove(Airflow(url, ADMIN, password), layout)
    show_places(layout)
    return 0


def second_act(layout: Layout) -> int:
    """Damage the sample in three ways while a load runs, and recover each through Airflow."""
    if not control.is_running(layout):
        up(layout)
    airflow = Airflow(address(layout), ADMIN, load_secrets(layout)["ui_admin"])
    drill.play(airflow, layout)
    show_places(layout)
    return 0


def stop_server(layout: Layout) -> int:
    """Stop the protected server."""
    control.hold(layout, config.CLUSTER)
    return 0


def start_server(layout: Layout) -> int:
    """Start the protected server again."""
    control.release(layout, config.CLUSTER)
    return 0


def down(layout: Layout) -> int:
    """Stop the stack; its data stays."""
    console.print("stopped; nothing of the demo runs" if control.stop(layout) else "the demo does not run")
    return 0


def status(layout: Layout) -> int:
    """Print what runs; 0 when all of it does."""
    state = State.read(layout.state)
    if not control.is_running(layout) or state is None:
        console.print("the demo does not run")
        if state is not None and state.failure:
            console.print(control.describe(state.failure), markup=False, soft_wrap=True)
        return 1
    for name, unit in state.units.items():
        console.print(f"{name:18} {unit.phase:9} {unit.pid or ''}")
    show_places(layout)
    return 0 if state.phase == "ready" else 1


def run_supervisor(layout: Layout) -> int:
    """Supervise until told to stop, or until something fails."""
    places = {"lock": layout.lock, "pid_file": layout.pid_file, "logs": layout.logs, "state": layout.state}
    return supervise(stack.units, **places)


def address(layout: Layout) -> str:
    """Where Airflow's UI is."""
    return f"http://{LOOPBACK}:{read_ports(layout)['ui']}"


def show_places(layout: Layout) -> None:
    """Print where to look next."""
    for name, place in (
        ("Airflow", f"{address(layout)}  login {ADMIN}  password {load_secrets(layout)['ui_admin']}"),
        ("mail", layout.mail),
        ("logs", layout.logs),
        ("command line", f"PGBACKUP_CONFIG={layout.protocol} .venv/bin/pgbackup list"),
        ("to stop it", "make down"),
    ):
        console.print(f"{name:14}{place}", markup=False, soft_wrap=True)


COMMANDS: dict[str, Callable[[Layout], int]] = {
    "up": up,
    "drill": second_act,
    "stop-server": stop_server,
    "start-server": start_server,
    "down": down,
    "status": status,
    "supervise": run_supervisor,
}


def main() -> int:
    """The command line; 1 and a message when something failed."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args().command
    try:
        return COMMANDS[command](Layout(stack.CHECKOUT))
    except (control.DemoFailedError, evidence.NotProvedError, AirflowError) as error:
        console.print(f"[bold red]the demo failed[/]: the stack's logs are in {Layout(stack.CHECKOUT).logs}")
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; what was started still runs (make down stops it)")
        return 130


if __name__ == "__main__":
    sys.exit(main())

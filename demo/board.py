"""Live progress: a table that is redrawn on a terminal, a line for each change elsewhere."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)

STYLES = {
    **dict.fromkeys(("ready", "done", "success", "verified"), "green"),
    **dict.fromkeys(("failed", "upstream_failed", "rejected"), "bold red"),
    **dict.fromkeys(("starting", "running", "stopping", "restarting", "up_for_retry"), "yellow"),
}
MOVING = {"starting", "running", "stopping", "queued", "scheduled"}


@dataclass(frozen=True)
class Row:
    """One line of progress: a name, a state, and how many seconds it took or has taken."""

    name: str
    state: str
    seconds: float | None = None


class Board:
    """What is shown under a title."""

    def __init__(self, title: str, live: Live | None) -> None:
        self.title = title
        self.live = live
        self.shown: dict[str, str] = {}
        self.spinners: dict[str, Spinner] = {}

    def update(self, rows: Iterable[Row]) -> None:
        """Show the present state of every row."""
        if self.live is not None:
            self.live.update(self.table(rows))
            return
        for row in rows:
            if self.shown.get(row.name) != row.state and row.state not in {"waiting", "none"}:
                took = f" ({row.seconds:.1f} s)" if row.seconds is not None and row.state not in MOVING else ""
                console.print(f"  {row.name}: {row.state}{took}", markup=False)
            self.shown[row.name] = row.state

    def table(self, rows: Iterable[Row]) -> Group:
        """The title and the rows; spinners keep turning from one table to the next."""
        table = Table(box=None, show_header=False)
        for row in rows:
            mark: Spinner | Text = Text("·", "dim")
            if row.state in MOVING:
                mark = self.spinners.setdefault(row.name, Spinner("dots", style="yellow"))
            elif row.state in STYLES:
                mark = Text("✗" if "red" in STYLES[row.state] else "✓", STYLES[row.state])
            took = "" if row.seconds is None else f"{row.seconds:.1f} s"
            table.add_row(mark, Text(row.name), Text(row.state, STYLES.get(row.state, "dim")), Text(took, "dim"))
        return Group(Text(self.title, "bold"), table)


@contextmanager
def board(title: str) -> Iterator[Board]:
    """A board that stays visible when it is done."""
    if not console.is_terminal:
        console.print(title, markup=False)
        yield Board(title, None)
        return
    with Live(console=console, refresh_per_second=8) as live:
        yield Board(title, live)

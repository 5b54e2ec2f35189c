"""What people read of a switch: before they approve it, and when it is done."""

from __future__ import annotations

from collections.abc import Iterator

from pgbackup.recover.markdown import findings_table, megabytes, plain
from pgbackup.recover.switch import Switched
from pgbackup.recover.switching import SwitchPlan


def switch_steps(plan: SwitchPlan) -> Iterator[str]:
    """Say what will be renamed, and what has to be known before, in plain text."""
    if plan.begun:
        yield "an earlier run was interrupted; this one goes on with its plan"
    if plan.before is None:
        yield "nothing is in its place now"
    else:
        yield f"{plan.data} becomes {plan.before}, {megabytes(plan.bytes)}, and is kept"
    yield f"{plan.folder} becomes {plan.data}, timeline {plan.timeline}"
    yield f"{plan.sessions} sessions end" if plan.alive else "no server runs there now"
    yield from (f"indexes to be built anew: {one}" for one in plan.collations)
    yield from (f"note: {note}" for note in plan.notes)


def switch_facts(done: Switched) -> Iterator[str]:
    """Say how it went, and what is left to do, in plain text."""
    yield (
        f"{done.plan.cluster} works in the recovered directory; nobody could write for {done.unwritten:.1f} s,"
        f" and connect for {done.unreachable:.1f} s"
    )
    if done.plan.before is not None:
        yield f"what was there is kept as {done.plan.before}"
    yield from (f"note: {note}" for note in done.notes)


def switch_plan_text(plan: SwitchPlan) -> str:
    """Show a plan, in Markdown."""
    lines = (f"- {plain(step)}" for step in switch_steps(plan))
    return "\n".join([f"Put the recovered cluster in the place of **{plan.cluster}**?", "", *lines])


def switched_text(done: Switched, approved: str) -> str:
    """Tell how it went, whether the application can work, and the way back, in Markdown."""
    return "\n".join(
        [
            f"**{done.plan.cluster}** is replaced by the recovered cluster, approved {plain(approved)}.",
            "",
            *(f"- {plain(fact)}" for fact in switch_facts(done)),
            "",
            *findings_table(done.findings),
            *(["", "To undo it, losing what was written since:", ""] if done.undo else []),
            *(f"    {command}" for command in done.undo),
        ]
    )

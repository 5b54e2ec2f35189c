"""What people read of a rotation, in Markdown: what, why, bytes freed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgbackup.rotate.apply import Applied
from pgbackup.rotate.planning import RotationPlan


def plan_text(plan: RotationPlan) -> str:
    """Show every backup with its rules, what goes first, and the WAL."""
    fates = sorted(plan.fates, key=lambda fate: bool(fate.rules))
    backups = [
        (fate.backup.id, "; ".join(fate.rules) or "**goes**: no rule keeps it", _size(fate.backup.bytes))
        for fate in fates
    ]
    remains = [
        (str(one.backup_id), "**goes**: never finished, or under deletion", _size(one.bytes)) for one in plan.remains
    ]
    wal = [
        (f"{one.system_identifier} timeline {one.timeline}", str(one.kept), str(one.count), _size(one.bytes))
        for one in plan.cuts
    ]
    going, every = len(plan.going) + len(plan.remains), len(plan.fates) + len(plan.remains)
    summary = (
        f"**{plan.repository}**: {going} of {every} backups of {plan.cluster} and"
        f" {sum(one.count for one in plan.cuts)} WAL segments go, {_size(plan.bytes)} are freed."
    )
    return "\n".join(
        [
            summary,
            "",
            *_table(("backup", "why", "size"), [*remains, *backups]),
            "",
            *_table(("WAL of system", "segments that stay", "that go", "size"), wal),
            *(f"- problem: {_plain(problem)}" for problem in plan.problems),
        ]
    )


def applied_text(applied: Applied) -> str:
    """Tell what went, and what could not."""
    summary = (
        f"**{applied.repository}**: {len(applied.backups)} backups and {applied.segments} WAL segments deleted,"
        f" {_size(applied.bytes)} freed."
    )
    return "\n".join(
        [
            summary,
            *(f"- {name}" for name in applied.backups),
            *(f"- NOT deleted, tried again by the next rotation: {_plain(one)}" for one in applied.failures),
        ]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(map(_plain, row)) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"

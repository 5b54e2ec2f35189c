"""What people read of a recovery, in Markdown: the plan before they approve it, the report when it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.recover.ahead import Foresight
from pgbackup.recover.cluster import Recovered
from pgbackup.recover.markdown import in_seconds, megabytes, moment, plain, span, table

UNTOUCHED = "The protected server was not touched."
ASKED_AGAIN = "- note: before it takes the place of the present one, that is asked for once more"


def plan_text(ahead: Foresight, *, replacing: bool = False) -> str:
    """Show what will be done, from what, how long it takes, what will be lost, and what to know before.

    ``replacing`` says that the recovered cluster is wanted in the place of the present one.
    """
    lines = list(_outline(ahead.plan, _facts(ahead)))
    if ahead.request.port is None:
        lines.append("- note: no port was asked for: the data directory is made, no server is started on it")
    if replacing:
        lines.append(ASKED_AGAIN)
    return "\n".join(lines)


def outline_text(plan: RecoveryPlan) -> str:
    """Show what a plan does before a place for it is chosen: from what, how long it takes, what will be lost."""
    return "\n".join(_outline(plan, (*_way(plan), ("will be lost", _losing(plan)))))


def _outline(plan: RecoveryPlan, facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    steps = [(step.name, megabytes(step.bytes), in_seconds(step.seconds)) for step in plan.steps]
    yield f"Recover **{plan.cluster}** beside to **{plain(str(plan.target))}**: {plan.target.meaning}."
    yield "The protected server is not touched."
    yield ""
    yield from table(("", ""), facts)
    yield ""
    yield from table(("step", "size", "predicted"), [*steps, ("total", "", in_seconds(plan.seconds))])
    yield ""
    yield from (f"- note: {plain(warning)}" for warning in plan.warnings)


def report_text(recovered: Recovered, ahead: Foresight, approved: str, *, replaced: bool = False) -> str:
    """Tell what came back, what is lost, how long it took, and what to do next.

    ``replaced`` says that it has taken the place of the present one since, of which another text tells.
    """
    plan, found = recovered.plan, recovered.replayed
    predicted = {step.name: step.seconds for step in plan.steps}
    steps = [
        (step.name, in_seconds(predicted[step.name]) if step.name in predicted else "", in_seconds(step.seconds))
        for step in recovered.steps
    ]
    total = ("total", in_seconds(plan.seconds), in_seconds(sum(step.seconds for step in recovered.steps)))
    facts = [
        ("target", plain(str(plan.target))),
        ("recovered to", f"{found.lsn}, now timeline {found.timeline}"),
        ("last transaction", moment(found.last_commit)),
        ("newest heartbeat", moment(found.heartbeat)),
        ("newest commit known", moment(ahead.newest)),
        ("lost", _lost(recovered, ahead.newest)),
        ("folder", str(recovered.folder)),
        ("from", f"{chain(plan)}{'' if plan.chain == ahead.plan.chain else ' (planned again after the approval)'}"),
        ("approval", plain(approved)),
    ]
    return "\n".join(
        [
            f"What **{plan.cluster}** is now was recovered beside at first:"
            if replaced
            else f"**{plan.cluster}** is recovered beside.",
            "",
            *table(("", ""), facts),
            "",
            *table(("step", "predicted", "measured"), [*steps, total]),
            "",
            *(f"- {step}" for step in (() if replaced else _next_steps(recovered))),
        ]
    )


def stop_command(folder: Path) -> str:
    """Return what stops the server of a recovered directory."""
    return f"kill -INT $(head -n 1 {folder / 'postmaster.pid'})"


def _facts(ahead: Foresight) -> Iterator[tuple[str, str]]:
    request = ahead.request
    yield from _way(ahead.plan)
    yield "into", f"{request.into}; needs {megabytes(ahead.needs)}, {megabytes(ahead.free)} are free"
    yield "server", f"127.0.0.1:{request.port}" if request.port is not None else "none"
    yield "newest commit known", moment(ahead.newest)
    yield "will be lost", _losing(ahead.plan)


def _way(plan: RecoveryPlan) -> Iterator[tuple[str, str]]:
    if plan.stop != plan.target:
        yield "which is at", str(plan.stop)
    yield "chain", chain(plan)
    for one in plan.wal:
        yield "WAL", f"timeline {one.timeline}: {one.start} to {one.end}"


def _losing(plan: RecoveryPlan) -> str:
    return "unknown" if plan.loses is None else f"{span(plan.loses)} up to the newest commit known"


def chain(plan: RecoveryPlan) -> str:
    """Name the backups of a plan and where they are."""
    return f"{' + '.join((*plan.chain, *plan.bundles))}, from {plan.repository}"


def _lost(recovered: Recovered, newest: datetime) -> str:
    """Say how much lies between what came back and the newest commit that was known when it was planned."""
    back = max(filter(None, (recovered.replayed.last_commit, recovered.replayed.heartbeat)), default=None)
    if back is None:
        return "unknown: no transaction was replayed"
    return f"{max((newest - back).total_seconds(), 0.0):.3f} s, from the last transaction to the newest one known"


def _next_steps(recovered: Recovered) -> Iterator[str]:
    folder, port = recovered.folder, recovered.port
    at = f"`psql -h 127.0.0.1 -p {port or 'PORT'}`"
    if port is None:
        options = f"-c port=PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        yield f"start it, as the owner of the folder: `pg_ctl start -D {folder} -o '{options}'`; choose a free PORT"
    yield f"look at it with the source's roles and passwords: {at}; it archives nothing, and asks no other server"
    yield f"stop it: `{stop_command(folder)}`"
    for gid in recovered.replayed.prepared:
        yield f"prepared transaction {plain(gid)} waits for COMMIT PREPARED or ROLLBACK PREPARED"
    yield f"when it is not needed any more: stop it, then `rm -r {folder}`"

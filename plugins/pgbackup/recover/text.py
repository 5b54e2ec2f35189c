"""What people read of a recovery, in Markdown: the plan before they approve it, the report when it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from pgbackup.domain.recovery import RecoveryPlan
from pgbackup.domain.survey import show
from pgbackup.recover.ahead import Foresight
from pgbackup.recover.cluster import Recovered


def plan_text(ahead: Foresight) -> str:
    """Show what will be done, from what, how long it takes, what will be lost, and what to know before."""
    plan, request = ahead.plan, ahead.request
    steps = [(step.name, _megabytes(step.bytes), _seconds(step.seconds)) for step in plan.steps]
    lines = [
        f"Recover **{plan.cluster}** beside to **{_plain(str(plan.target))}**: {plan.target.meaning}.",
        "The protected server is not touched.",
        "",
        *_table(("", ""), _facts(ahead)),
        "",
        *_table(("step", "size", "predicted"), [*steps, ("total", "", _seconds(plan.seconds))]),
        "",
        *(f"- note: {_plain(warning)}" for warning in plan.warnings),
    ]
    if request.port is None:
        lines.append("- note: no port was asked for: the data directory is made, no server is started on it")
    return "\n".join(lines)


def report_text(recovered: Recovered, ahead: Foresight, approved: str) -> str:
    """Tell what came back, what is lost, how long it took, and what to do next."""
    plan, found = recovered.plan, recovered.replayed
    predicted = {step.name: step.seconds for step in plan.steps}
    steps = [
        (step.name, _seconds(predicted[step.name]) if step.name in predicted else "", _seconds(step.seconds))
        for step in recovered.steps
    ]
    total = ("total", _seconds(plan.seconds), _seconds(sum(step.seconds for step in recovered.steps)))
    facts = [
        ("target", _plain(str(plan.target))),
        ("recovered to", f"{found.lsn}, now timeline {found.timeline}"),
        ("last transaction", _moment(found.last_commit)),
        ("newest heartbeat", _moment(found.heartbeat)),
        ("newest commit known", _moment(ahead.newest)),
        ("lost", _lost(recovered, ahead.newest)),
        ("folder", str(recovered.folder)),
        ("from", f"{_chain(plan)}{'' if plan.chain == ahead.plan.chain else ' (planned again after the approval)'}"),
        ("approval", _plain(approved)),
    ]
    return "\n".join(
        [
            f"**{plan.cluster}** is recovered beside. The protected server was not touched.",
            "",
            *_table(("", ""), facts),
            "",
            *_table(("step", "predicted", "measured"), [*steps, total]),
            "",
            *(f"- {step}" for step in _next_steps(recovered)),
        ]
    )


def _facts(ahead: Foresight) -> Iterator[tuple[str, str]]:
    plan, request = ahead.plan, ahead.request
    if plan.stop != plan.target:
        yield "which is at", str(plan.stop)
    yield "chain", _chain(plan)
    for one in plan.wal:
        yield "WAL", f"timeline {one.timeline}: {one.start} to {one.end}"
    yield "into", f"{request.into}; needs {_megabytes(ahead.needs)}, {_megabytes(ahead.free)} are free"
    yield "server", f"127.0.0.1:{request.port}" if request.port is not None else "none"
    yield "newest commit known", _moment(ahead.newest)
    yield "will be lost", "unknown" if plan.loses is None else f"{_span(plan.loses)} up to that commit"


def _chain(plan: RecoveryPlan) -> str:
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
    yield f"stop it: `kill -INT $(head -n 1 {folder}/postmaster.pid)`"
    for gid in recovered.replayed.prepared:
        yield f"prepared transaction {_plain(gid)} waits for COMMIT PREPARED or ROLLBACK PREPARED"
    yield f"when it is not needed any more: stop it, then `rm -r {folder}`"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (header, tuple("---" for _ in header), *rows):
        yield f"| {' | '.join(row)} |"


def _plain(text: str) -> str:
    """Return a text that somebody chose as Markdown that is read as nothing else."""
    line = " ".join(text.split()).replace("\\", "\\\\")
    for character in "`*[]<>|":
        line = line.replace(character, f"\\{character}")
    return line


def _moment(moment: datetime | None) -> str:
    return "unknown" if moment is None else show(moment.astimezone(UTC))


def _span(time: timedelta) -> str:
    return str(timedelta(seconds=round(time.total_seconds())))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"

"""``pgbackup plan-rotation``, ``rotate`` and ``hold``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markdown import Markdown

from pgbackup.cli.face import Cluster, Config, Json, failures, only, open_site, running
from pgbackup.cli.output import out, print_error, print_json
from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError
from pgbackup.domain.hold import Hold
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Duration
from pgbackup.rotate import Applied, apply, list_holds, plan, put_hold, release_hold
from pgbackup.rotate.text import applied_text, plan_text

_T = TypeVar("_T")
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)
hold_app = typer.Typer(help="Backups that nobody may delete.", no_args_is_help=True)
Repository = Annotated[
    str | None, typer.Option("--repository", help="Which repository; default: each.", show_default=False)
]


def plan_rotation(
    config: Config = None, cluster: Cluster = None, repository: Repository = None, json: Json = False
) -> None:
    """Show what a rotation would delete, and which rule keeps the rest; nothing is touched."""
    with failures(json=json):
        site = open_site(config)
        name = only(site, cluster)
        plans, errors = _each(site, repository, lambda one: plan(site, name, one))
    if json:
        print_json([one.document() for one in plans])
    else:
        for one in plans:
            out.print(Markdown(plan_text(one)))
    _end(errors, json=json)


def rotate(config: Config = None, cluster: Cluster = None, repository: Repository = None, json: Json = False) -> None:
    """Delete what no rule keeps; exit 1: something could not be deleted, the next rotation tries again.

    A repository that is down delays no other.
    """
    with running("rotate", config, cluster, json=json) as (site, name):

        def one_after_the_other(one: str) -> Applied:
            planned = plan(site, name, one)
            if not json:
                out.print(Markdown(plan_text(planned)))
            return apply(site, planned.document())

        applied, errors = _each(site, repository, one_after_the_other)
    if json:
        print_json([asdict(one) for one in applied])
    else:
        for done in applied:
            out.print(Markdown(applied_text(done)))
    _end(errors, json=json)
    if any(one.failures for one in applied):
        raise typer.Exit(RefusedError.exit_code)


def _each(site: Site, repository: str | None, do: Callable[[str], _T]) -> tuple[list[_T], list[PgBackupError]]:
    """Do something for one repository, or for each by itself; return what came of it, and the errors."""
    done: list[_T] = []
    errors: list[PgBackupError] = []
    for one in [repository] if repository else site.repositories:
        try:
            done.append(do(one))
        except PgBackupError as error:
            errors.append(error)
    return done, errors


def _end(errors: list[PgBackupError], *, json: bool) -> None:
    for error in errors:
        print_error(error, as_json=json)
    if errors:
        raise typer.Exit(max(error.exit_code for error in errors))


@hold_app.command("add")
def add_hold(
    backup_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why; printed by every rotation.")],
    period: Annotated[
        str | None, typer.Option("--for", help="How long, such as 30d; default: until it is released.")
    ] = None,
    with_wal: Annotated[bool, typer.Option("--with-wal", help="Keep the archived WAL behind it, too.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Hold a backup, and what it stands on, in every repository that has it."""
    with failures(json=json):
        site = open_site(config)
        expires_at = site.clock() + _duration(period) if period else None
        hold = put_hold(site, backup_id, reason=reason, expires_at=expires_at, with_wal=with_wal)
    _print([hold], json=json)


@hold_app.command("list")
def show_holds(config: Config = None, cluster: Cluster = None, json: Json = False) -> None:
    """List the holds that stand."""
    with failures(json=json):
        site = open_site(config)
        holds = list_holds(site, only(site, cluster))
    _print(holds, json=json)


@hold_app.command("release")
def drop_hold(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="As `pgbackup hold list` prints it.")],
    config: Config = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Release a hold in every repository: the next rotation may delete its backup."""
    with failures(json=json):
        site = open_site(config)
        found = [hold for hold in list_holds(site, only(site, cluster)) if hold.id == hold_id]
        if not found:
            raise RefusedError(f"no hold {hold_id} stands", hint="`pgbackup hold list` shows which do")
        release_hold(site, found[0])
    if json:
        print_json({"released": hold_id})
    else:
        out.print(f"released: {found[0].backup_id} {found[0]}", markup=False)


def _duration(text: str) -> timedelta:
    try:
        return _DURATION.validate_python(text)
    except ValidationError:
        raise ConfigurationError(f"{text!r} is not a duration", hint="such as 12h, 30d, 4w") from None


def _print(holds: Sequence[Hold], *, json: bool) -> None:
    if json:
        print_json([hold.model_dump(mode="json") | {"id": hold.id} for hold in holds])
    else:
        for hold in holds:
            out.print(f"{hold.id}  {hold.backup_id}  {hold}", markup=False)
        if not holds:
            out.print("no holds")

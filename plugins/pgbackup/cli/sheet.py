"""``pgbackup sheet``: what each repository holds for the day when nothing else is left."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pgbackup.assembly import read_configuration
from pgbackup.cli.face import Config, Json, failures, open_site
from pgbackup.cli.output import out, print_error, print_json
from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.settings import LOCAL
from pgbackup.sheet import read_sheet, write_sheets

sheet_app = typer.Typer(help="The recovery sheet in every repository.", no_args_is_help=True)


@sheet_app.command("write")
def write(
    to: Annotated[str | None, typer.Option("--to", help="One repository; default: all.", show_default=False)] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write the sheet, the scripts and the sealed protocol.yaml where something has changed since the last time.

    A repository that is down keeps none of the others from it.
    """
    with failures(json=json):
        site, protocol = open_site(config), read_configuration(config)
        written, errors = write_sheets(site, [_store(site, to).name] if to else site.repositories, protocol)
    for error in errors:
        print_error(error, as_json=json)
    if json:
        print_json([asdict(one) for one in written])
    else:
        for one in written:
            out.print(f"{one.repository}: {one.edition}{'' if one.fresh else ', as it was'}", markup=False)
    if errors:
        raise typer.Exit(max(error.exit_code for error in errors))


@sheet_app.command("show")
def show(
    source: Annotated[str, typer.Option("--from", help="The repository to read.")] = LOCAL,
    config: Config = None,
    json: Json = False,
) -> None:
    """Print the newest sheet of a repository."""
    with failures(json=json):
        site = open_site(config)
        text = read_sheet(site, _store(site, source))
    if json:
        print_json({"repository": source, "sheet": text})
    else:
        typer.echo(text)


def _store(site: Site, name: str) -> Store:
    if name not in site.repositories:
        raise ConfigurationError(f"no repository {name!r}", detail=", ".join(site.repositories))
    return site.repositories[name]

"""What all commands share: options, the Site of a call, errors as exit codes, logs and progress."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from pgbackup.assembly import build_site, load_settings, log_file, service_parameters
from pgbackup.cli.output import TerminalProgress, err, print_error
from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.ports import Site

Config = Annotated[
    Path | None, typer.Option("--config", help="protocol.yaml; default: PGBACKUP_CONFIG.", show_default=False)
]
Cluster = Annotated[
    str | None, typer.Option("--cluster", help="Which cluster; needless when there is one.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and errors as JSON to standard error.")]


def open_site(config: Path | None, progress: Callable[[str, int], None] | None = None) -> Site:
    """Build the real parts for one call."""
    owner = f"cli:{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    return build_site(load_settings(config), service_parameters, owner=owner, progress=progress)


@contextlib.contextmanager
def running(verb: str, config: Path | None, cluster: str | None, *, json: bool) -> Iterator[tuple[Site, str]]:
    """Set up one long verb: log on terminal and in the log folder, progress bars, children ended at the end."""
    with failures(json=json), contextlib.ExitStack() as stack:
        logging.basicConfig(
            level=logging.WARNING if json else logging.INFO,
            format="%(message)s",
            handlers=[RichHandler(console=err, show_path=False, markup=False)],
        )
        progress = stack.enter_context(TerminalProgress()) if err.is_terminal and not json else None
        site = open_site(config, progress)
        name = only(site, cluster)
        stack.enter_context(log_file(site.settings.paths.logs, f"{name}_{verb}", datetime.now(UTC)))
        stack.callback(site.runner.terminate)
        yield site, name


def only(site: Site, cluster: str | None) -> str:
    """Return the cluster that is meant; raises ConfigurationError when that is not clear."""
    names = list(site.settings.clusters)
    if cluster is None and len(names) > 1:
        raise ConfigurationError("which cluster?", detail=", ".join(names), hint="name one with --cluster")
    name = cluster or names[0]
    site.settings.cluster(name)
    return name


@contextlib.contextmanager
def failures(*, json: bool) -> Iterator[None]:
    """Print an error of ours and exit with its code."""
    try:
        yield
    except PgBackupError as error:
        print_error(error, as_json=json)
        raise typer.Exit(error.exit_code) from None

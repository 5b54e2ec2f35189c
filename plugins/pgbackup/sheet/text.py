"""What the sheet says: from the configuration, without secrets, and the same whenever nothing has changed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from pgbackup.domain.keys import Key, Role
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Connection, Repository

_ENVIRONMENT = Environment(
    loader=PackageLoader("pgbackup.sheet"),
    autoescape=False,  # noqa: S701 - Markdown, of what the configuration says
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_OPENING = frozenset({Role.RECIPIENT, Role.ESCROW, Role.SIGNING, Role.VERIFY})


@dataclass(frozen=True)
class Place:
    """A repository: where it is, and how a machine that has nothing of ours gets its files; none for a folder."""

    name: str
    where: str
    fetch: str


def sheet_text(site: Site) -> str:
    """Write the sheet of all clusters, the whole runbook behind it."""
    settings = site.settings
    keys = sorted(
        (key for key in site.keyring.expiries() if key.role in _OPENING), key=lambda key: (key.role, key.path)
    )
    return _ENVIRONMENT.get_template("RECOVERY.md.jinja").render(
        clusters=settings.clusters,
        places=tuple(_places(site)),
        keys=tuple(_key(key) for key in keys),
        signed=bool(settings.encryption.verify_keys),
        suffix=site.keyring.suffix,
        contacts=settings.contacts,
        objectives=settings.objectives,
        runbook=_runbook(),
        plain=plain,
        reached=_reached,
        hours=lambda span: f"{span.total_seconds() / 3600:g} h",
    )


def plain(text: object) -> str:
    """Put a text of the configuration on one line of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _places(site: Site) -> Iterator[Place]:
    yield Place(site.local.name, f"the folder {site.settings.paths.backups}", "")
    for name, repository in site.settings.repositories.items():
        yield Place(name, *_place(repository))


def _place(repository: Repository) -> tuple[str, str]:
    if repository.s3 is None:
        return f"the folder {repository.folder}", ""
    address = f"s3://{repository.s3.bucket}/{repository.s3.prefix.strip('/')}".rstrip("/")
    profile = f"--profile {shlex.quote(repository.s3.profile)} " if repository.s3.profile else ""
    return f"the bucket {address}", f"aws {profile}s3 sync {shlex.quote(address)} /srv/repository"


def _key(key: Key) -> tuple[str, str, str, str]:
    return key.role, key.path.name, key.fingerprint, f"{key.expires:%Y-%m-%d}" if key.expires else "never"


def _reached(connection: Connection) -> str:
    names = (("service", connection.service), ("Airflow connection", connection.airflow_conn_id))
    return ", ".join(f"{kind} {name}" for kind, name in names if name)


def _runbook() -> str:
    """Return the runbook; its scripts lie beside the sheet."""
    text = resources.files("pgbackup.sheet").joinpath("runbook.md").read_text(encoding="utf-8")
    return text.replace("(../include/scripts/", "(")

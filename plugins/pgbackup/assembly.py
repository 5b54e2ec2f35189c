"""Put a Site together from the configuration: shared by the faces (command line, Airflow adapter)."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import yaml

from pgbackup.catalog import PostgresCatalog
from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Keyring, Runner, Site, Store
from pgbackup.domain.settings import LOCAL, S3, Connection, Settings, parse_settings
from pgbackup.postgres.connection import connect
from pgbackup.store import FsspecStore, LocalStore, S3Store, filesystem, profile_client
from pgbackup.stream import GpgKeyring, PlainKeyring, Processes, check_secret

Resolve = Callable[[Connection], ConnectionParameters]
"""How a face turns a connection of the configuration into libpq parameters."""

Bucket = Callable[[S3], Any]
"""How a face makes the boto3 client of a bucket; with the configuration that ``client_config`` returns."""

_PROGRESS_SECONDS = 10.0
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: ten times as fast, which a hundred clusters need."""


def config_path() -> Path:
    """Return where protocol.yaml is, unless a face says otherwise."""
    return Path(os.environ.get("PGBACKUP_CONFIG") or "/etc/pgbackup/protocol.yaml")


def load_settings(path: Path | None = None) -> Settings:
    """Read protocol.yaml: the given one, else the one that PGBACKUP_CONFIG names; raises ConfigurationError."""
    named = path or config_path()
    try:
        document = yaml.load(read_configuration(path).decode(), Loader=_LOADER)  # noqa: S506 - both are safe ones
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{named} is not YAML", detail=str(error)) from None
    return parse_settings(document, source=str(named))


def read_configuration(path: Path | None = None) -> bytes:
    """Return the text of protocol.yaml; see load_settings."""
    named = path or config_path()
    try:
        return named.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no configuration at {named}",
            hint="start from include/config/protocol.yaml; PGBACKUP_CONFIG or --config names the file",
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {named}", detail=str(error)) from None


def service_parameters(connection: Connection) -> ConnectionParameters:
    """Reach a server by its libpq service, as the command line does."""
    if connection.service is None:
        raise ConfigurationError(
            "this connection is for Airflow only",
            detail=f"airflow_conn_id {connection.airflow_conn_id}",
            hint="add a `service` of pg_service.conf to use it from the command line",
        )
    keywords = {"service": connection.service}
    if connection.passfile is not None:
        if connection.passfile.exists():  # libpq does without it, and says "no password supplied" of an open one
            check_secret(connection.passfile, f"`passfile` of the service {connection.service}")
        keywords["passfile"] = str(connection.passfile)
    return ConnectionParameters(keywords)


def build_site(
    settings: Settings,
    resolve: Resolve,
    *,
    owner: str,
    bucket: Bucket = profile_client,
    progress: Callable[[str, int], None] | None = None,
    secrets: tuple[str, ...] = (),
) -> Site:
    """Build the real parts; nothing is connected yet."""
    if settings.paths.service_file is not None:
        os.environ["PGSERVICEFILE"] = str(settings.paths.service_file)  # libpq takes it from nowhere else
    runner = Processes(secrets)
    return Site(
        settings=settings,
        runner=runner,
        keyring=build_keyring(settings, runner),
        catalog=PostgresCatalog(lambda: connect(resolve(settings.catalog), pinned=False)),
        repositories=_repositories(settings, bucket),
        connections=lambda cluster: resolve(settings.cluster(cluster).connection),
        recovery_connections=lambda cluster: resolve(
            settings.cluster(cluster).recovery_connection or settings.cluster(cluster).connection
        ),
        clock=lambda: datetime.now(UTC),
        owner=owner,
        progress=progress or LogProgress(),
    )


def _repositories(settings: Settings, bucket: Bucket) -> dict[str, Store]:
    found: dict[str, Store] = {LOCAL: LocalStore(settings.paths.backups)}
    for name, other in settings.repositories.items():
        if other.folder is not None:
            found[name] = LocalStore(other.folder, name=name)
        elif other.s3 is not None:
            found[name] = S3Store(other.s3, partial(bucket, other.s3), name=name, clock=lambda: datetime.now(UTC))
        elif other.url is not None:
            found[name] = FsspecStore(partial(filesystem, other.url), name=name)
    return found


def build_keyring(settings: Settings, runner: Runner) -> Keyring:
    """Build the keyring that the configuration asks for."""
    return GpgKeyring(settings.encryption, runner) if settings.encryption.enabled else PlainKeyring()


class LogProgress:
    """Progress as a log line every ten seconds, for logs that nobody watches live."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __call__(self, label: str, count: int) -> None:
        """Say how far a stream is, if it is time to."""
        now = time.monotonic()
        start = self._started.setdefault(label, now)
        if now - self._said.setdefault(label, now) >= _PROGRESS_SECONDS:
            self._said[label] = now
            logging.getLogger("pgbackup").info(
                "%s: %.0f MB so far, %.1f MB/s", label, count / 1e6, count / 1e6 / max(now - start, 0.001)
            )


class _LogFile(logging.FileHandler):
    """A log file of mode 0640, made at its first line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)

    def _open(self) -> TextIOWrapper:
        return open(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), "a", encoding="utf-8")  # noqa: PTH123


@contextlib.contextmanager
def log_file(folder: Path, name: str, moment: datetime) -> Iterator[Path | None]:
    """Write what the engine logs also to a file of mode 0640, one a run; a full or missing disk stops no backup."""
    engine = logging.getLogger("pgbackup")
    path = folder / f"{name}_{moment:%Y%m%d_%H%M%S}.log"
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        handler = _LogFile(path)
    except OSError as error:
        engine.warning("no log file in %s: %s", folder, error.strerror)
        yield None
        return
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = engine.level
    engine.addHandler(handler)
    if engine.getEffectiveLevel() > logging.INFO:
        engine.setLevel(logging.INFO)
    try:
        yield path
    finally:
        engine.removeHandler(handler)
        engine.setLevel(level)
        handler.close()

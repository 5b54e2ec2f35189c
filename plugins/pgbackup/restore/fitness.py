"""Whether this machine can judge a physical backup: it runs the source's own files, and needs what these stand on."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from pgbackup.domain.errors import UnfitError
from pgbackup.domain.findings import some
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Runner
from pgbackup.postgres.programs import Programs

_ICU_BY_DEFAULT = 16


def refuse_unfit(manifest: Manifest, programs: Programs, runner: Runner) -> None:
    """Raise UnfitError that names what the server of a physical backup had and this machine has not.

    Another server would fail on the backup's files, and nobody could tell its own faults from the backup's.
    """
    major, here = manifest.server.version // 10000, programs.major(runner, "postgres")
    if major != here:
        raise UnfitError(
            f"PostgreSQL {here} cannot start a physical backup of {major}",
            detail=f"programs in {programs.folder}",
            hint=f"install postgresql-{major} where backups are verified, or set paths.postgres_bin",
        )
    output, _ = runner.run(programs.command("pg_config", "--sharedir", "--pkglibdir", "--configure"))
    shared, libraries, options = output.decode().splitlines()
    missing = [
        *_extensions(manifest, Path(shared, "extension")),
        *_libraries(manifest, Path(libraries)),
        *_providers(
            manifest, has_icu="--with-icu" in options or (here >= _ICU_BY_DEFAULT and "--without-icu" not in options)
        ),
        *_locales(manifest, runner),
    ]
    if missing:
        raise UnfitError(
            f"this machine cannot judge {manifest.id}: no verdict",
            detail=f"it has not: {some(missing, most=20)}",
            hint="install what is missing where backups are verified",
        )


def _extensions(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Yield extensions without a control file, or none of whose scripts knows the installed version."""
    for name, version in sorted({(one.name, one.version) for entry in manifest.databases for one in entry.extensions}):
        scripts = folder.glob(f"{glob.escape(name)}--*.sql")
        known = {part for path in scripts for part in path.stem.split("--")[1:]}
        if not (folder / f"{name}.control").exists() or (known and version not in known):
            yield f"extension {name} {version}"


def _libraries(manifest: Manifest, folder: Path) -> Iterator[str]:
    for name in manifest.server.shared_preload_libraries:
        path = folder / name.removeprefix("$libdir/")
        if not (path.exists() or path.with_name(f"{path.name}.so").exists()):
            yield f"library {name} (shared_preload_libraries)"


def _providers(manifest: Manifest, *, has_icu: bool) -> Iterator[str]:
    wanted = [entry.name for entry in manifest.databases if entry.locale_provider == "i"]
    if wanted and not has_icu:
        yield f"ICU, the locale provider of {some(wanted)}"


def _locales(manifest: Manifest, runner: Runner) -> Iterator[str]:
    """Yield locales of the operating system that are not here: no session can be opened in their databases."""
    for name in sorted({name for entry in manifest.databases for name in (entry.collate, entry.ctype)}):
        _, complaints = runner.run(Command(("locale", "charmap"), {"LC_ALL": name}))
        if complaints:
            yield f"locale {name}"

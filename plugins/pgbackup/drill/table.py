"""Single table recovery: one table's rows out of a dump, alone, compared with its fingerprint.

Definitions come back whole. Of rows there are the table's, and those that its foreign keys lead to: without them nobody
could tell whether these hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain import findings as named
from pgbackup.domain.errors import ProgramFailed, RefusedError
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Database, File, Manifest, Table
from pgbackup.domain.model import Command, ConnectionParameters
from pgbackup.domain.survey import show
from pgbackup.drill.full import newest_verified
from pgbackup.drill.trial import Trial, cleared
from pgbackup.postgres import dump
from pgbackup.postgres.connection import program_access
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.postgres.toc import Archive, Entry, read_archive
from pgbackup.recover.side import spool_errors
from pgbackup.restore.compare import Comparison
from pgbackup.restore.fetch import describe_copy, fetch_file, open_passphrase
from pgbackup.restore.isolated import Restored, judge_restore, restore_globals, server_for

_HEARTBEAT = "pgbackup"  # our own schema: nobody would miss its rows
_ROWS = ("TABLE DATA ", "CONSTRAINT ", "CHECK CONSTRAINT ", "INDEX ", "INDEX ATTACH ")


@dataclass(frozen=True)
class Chosen:
    """A table in a full backup."""

    manifest: Manifest
    entry: Database
    table: Table

    def __str__(self) -> str:
        return f"{self.entry.name}.{self.table.schema_name}.{self.table.name}"


def recover_one_table(trial: Trial) -> bool:
    """Fetch one database's dump, restore the table, compare it; True when it came to its end."""
    manifest = newest_verified(trial)
    trial.about = named.TABLES
    chosen = choose_table(manifest, trial.site.settings.cluster(trial.cluster).drill.table)
    rows = chosen.table.content.rows if chosen.table.content else 0
    trial.subject = f"{chosen}, {rows} rows as of {show(manifest.backup_time)}, from {manifest.id}"
    folder = trial.site.spool / "drill" / f"{trial.cluster}_table"
    trial.about, rates = named.BYTES, trial.rates()
    with spool_errors(), cleared(folder):
        wanted = (manifest.dump(chosen.entry), manifest.globals())
        with trial.step("fetch and decrypt", sum(file.stored_bytes for file in wanted) / rates.fetch):
            archive, roles = _fetch(trial, manifest, wanted, folder / "files")
        trial.about = named.RESTORE
        server = server_for(trial.site, manifest, folder / "server")
        share = _share(chosen)
        with trial.step("restore", rates.start + share / rates.restore):
            server.create()
            with server.running() as parameters:
                restored = _restore(trial, chosen, archive, roles, server, parameters)
        if restored.errors:
            return False
        with trial.step("compare", rates.start + share / rates.compare), server.running() as parameters:
            _compare(trial, chosen, restored, server, parameters)
    return True


def choose_table(manifest: Manifest, configured: str | None) -> Chosen:
    """Return the configured table, else the ordinary one with most rows; raises RefusedError when there is none."""
    found = [
        Chosen(manifest, entry, table)
        for entry in manifest.databases
        for table in entry.tables
        if table.kind == "r" and table.content is not None and table.schema_name != _HEARTBEAT
    ]
    if configured is not None:
        found = [one for one in found if configured in {str(one), str(one).removeprefix(f"{one.entry.name}.")}]
    if not found or (configured is not None and len(found) > 1):
        what = f"{len(found) or 'no'} tables {configured!r}" if configured else "no table"
        raise RefusedError(
            f"{what} with a fingerprint in {manifest.id}",
            hint="drill.table: write database.schema.table; fingerprints must be on for it",
        )
    return max(found, key=lambda one: (one.table.content.rows if one.table.content else 0, str(one)))


def _share(chosen: Chosen) -> float:
    """Guess a table's bytes by its part of the database's rows."""
    total = sum(table.content.rows for table in chosen.entry.tables if table.content)
    rows = chosen.table.content.rows if chosen.table.content else 0
    return chosen.entry.bytes * rows / total if total else 0.0


def _fetch(trial: Trial, manifest: Manifest, wanted: Iterable[File], folder: Path) -> tuple[Path, Path]:
    store = trial.site.local
    description = describe_copy(trial.site, store, BackupId.parse(manifest.id))
    passphrase = open_passphrase(trial.site, store, description)
    archive, roles = (fetch_file(trial.site, store, description, file, passphrase, folder) for file in wanted)
    trial.ask(named.BYTES, lambda: (True, f"{sum(path.stat().st_size for path in (archive, roles))} bytes", ""))
    return archive, roles


def _restore(
    trial: Trial, chosen: Chosen, path: Path, roles: Path, server: ThrowAwayServer, parameters: ConnectionParameters
) -> Restored:
    """Restore all definitions, then the rows, indexes and keys of what was chosen."""
    manifest, entry = chosen.manifest, chosen.entry
    restore_globals(parameters, roles.read_bytes().decode(errors="surrogateescape"), manifest.bootstrap_superuser)
    archive = read_archive(trial.site.runner, server.programs, path, entry.encoding)
    entries = tuple(_parts(archive, archive.table(chosen.table.schema_name, chosen.table.name, manifest.roles)))
    with program_access(parameters) as access:
        commands = (
            dump.restore_definitions(server.programs, access, path),
            dump.restore_chosen(server.programs, access, archive.choose(entries), path, entry.name, jobs=trial.jobs),
        )
        errors, violated = _run(trial, manifest, entry.name, commands)
    trial.ask(named.RESTORE, lambda: _restored(entries, errors))
    return Restored(entry.name, errors, violated)


def _run(
    trial: Trial, manifest: Manifest, database: str, commands: Iterable[Command]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the errors, and the foreign keys that the rows violate."""
    errors: list[str] = []
    violated: list[str] = []
    for command in commands:
        try:
            trial.site.runner.run(command)
        except ProgramFailed as error:
            found = judge_restore(manifest, database, error)
            errors += found.errors
            violated += found.violated_foreign_keys
    return tuple(errors), tuple(violated)


def _restored(entries: tuple[Entry, ...], errors: tuple[str, ...]) -> Answer:
    rows = [entry.text for entry in entries if entry.text.startswith(_ROWS[0])]
    detail = f"rows of {len(rows)} tables: the table's, and those that its foreign keys lead to"
    return not errors, some(errors) if errors else detail, "recover the table by hand: pgbackup recover table"


def _parts(archive: Archive, table: Entry) -> Iterator[Entry]:
    """Yield what a table needs besides definitions, in the dump's order: rows, indexes, and the rows it refers to."""
    own = archive.parts([table])
    keys = [entry for entry in own if entry.text.startswith("FK CONSTRAINT ")]
    referred = {one for key in keys for one in key.depends} - {table.id}
    parents = [
        one
        for entry in archive.entries
        if entry.id in referred and entry.text.startswith("TABLE ")
        for one in archive.tree(entry)
    ]
    chosen = {one.id for one in (*own, *archive.parts(parents)) if one.text.startswith(_ROWS)}
    chosen |= {key.id for key in keys}
    yield from (entry for entry in archive.entries if entry.id in chosen)


def _compare(
    trial: Trial, chosen: Chosen, restored: Restored, server: ThrowAwayServer, parameters: ConnectionParameters
) -> None:
    settings, table, entry = trial.site.settings.cluster(trial.cluster), chosen.table, chosen.entry
    keys = tuple(key for key in entry.foreign_keys if (key.schema_name, key.table) == (table.schema_name, table.name))
    one = entry.model_copy(update={"tables": (table,), "foreign_keys": keys})

    def comparison(database: Database) -> Comparison:
        part = chosen.manifest.model_copy(update={"databases": (database,)})
        violated = frozenset((restored.database, name) for name in restored.violated_foreign_keys)
        return Comparison(part, settings, parameters, violated)

    trial.ask(named.TABLES, comparison(entry).tables)
    trial.ask(named.CONTENT, comparison(one).contents)
    trial.ask(named.FOREIGN_KEYS, comparison(one).foreign_keys)
    trial.ask(named.INDEXES, lambda: comparison(one).indexes(trial.site.runner, server.programs))
    if settings.verify_backup.application_role:
        trial.ask(named.APPLICATION, comparison(entry).application)

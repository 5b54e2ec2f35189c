"""The steps of a verification. Each stands on what the one before left in the attempt's folder, records its findings in
the catalog, and can be tried again: Airflow runs them as tasks, ``verify`` one after the other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from pgbackup.domain import findings as named
from pgbackup.domain.attestation import Attestation, seal
from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnfitError
from pgbackup.domain.findings import failures, timed, verdict
from pgbackup.domain.ids import KEY_FILE, BackupId
from pgbackup.domain.manifest import File, Manifest
from pgbackup.domain.model import ConnectionParameters, CopyState, Finding, Kind, State, Verdict, Verification
from pgbackup.domain.ports import Site, Store
from pgbackup.postgres import dump
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.fetch import Description, check_stored, describe_copy, fetch_file, open_passphrase
from pgbackup.restore.isolated import Restored, restore_database, restore_globals, server_for
from pgbackup.verify.attempt import Attempt, discard, empty, held
from pgbackup.verify.physical import comparison_of, replay, unpack

log = logging.getLogger(__name__)

FILES = "files"
RESTORE = "restore"
CONTENTS = "contents"
_VIOLATIONS = "violated_foreign_keys.json"


def check_files(site: Site, attempt: Attempt) -> tuple[Finding, ...]:
    """Fetch every object, compare checksums, decrypt; unpack a physical backup and compare its files."""
    store = site.repositories[attempt.repository]
    with held(attempt), _recorded(site, attempt, FILES) as found:
        empty(attempt)
        holder: list[Description] = []

        def read() -> named.Answer:
            holder.append(describe_copy(store, BackupId.parse(attempt.backup_id)))
            count = _fetch_plain(site, store, holder[0], attempt.files)
            return True, f"{count} files, {holder[0].manifest.stored_bytes} bytes", ""

        if not _note(found, named.BYTES, read):
            return tuple(found)
        description = holder[0]
        if description.manifest.encrypted and not _note(
            found, named.DECRYPT, lambda: _decrypt(site, store, description, attempt.files)
        ):
            return tuple(found)
        if description.manifest.kind is not Kind.FULL:
            _note(found, named.MANIFEST_FILES, lambda: unpack(site, description.manifest, attempt))
    return tuple(found)


def check_restore(site: Site, attempt: Attempt) -> tuple[Finding, ...]:
    """Restore globals and databases into a new throw-away server, or replay a physical backup; leave it stopped."""
    manifest = _manifest(site, attempt)
    server = server_for(site, manifest, attempt.server)
    jobs = site.settings.cluster(manifest.cluster).verify_backup.jobs
    with held(attempt), _recorded(site, attempt, RESTORE) as found:
        if manifest.kind is not Kind.FULL:
            _note(found, named.RECOVERY, lambda: replay(site, manifest, server))
            return tuple(found)
        server.create()
        with server.running() as parameters, ThreadPoolExecutor(max_workers=1) as pool:
            # The dumps are decoded beside the restore: it waits for the server more often than for a processor.
            decoded: list[Finding] = []
            decoding = pool.submit(_note, decoded, named.DECODE, lambda: _decode(site, manifest, attempt))
            restored: list[Finding] = []
            _note(restored, named.RESTORE, lambda: _restore(site, manifest, attempt, server, parameters, jobs))
            decoding.result()
            found.extend(decoded + restored)
    return tuple(found)


def check_contents(site: Site, attempt: Attempt) -> tuple[Finding, ...]:
    """Start the restored server and compare everything with the manifest."""
    manifest = _manifest(site, attempt)
    server = server_for(site, manifest, attempt.server)
    if not (server.data / "PG_VERSION").exists():
        raise UnfitError(
            "the restored server is not on this machine",
            detail=str(server.data),
            hint="the tasks of one verification must run on one machine: serve the cluster's queue by one worker",
        )
    settings = site.settings.cluster(manifest.cluster)
    with held(attempt), _recorded(site, attempt, CONTENTS) as found, server.running() as parameters:
        comparison = comparison_of(manifest, settings, parameters, _violations(attempt))
        with ThreadPoolExecutor(max_workers=1) as pool:
            indexes = pool.submit(
                timed,
                named.INDEXES,
                lambda: comparison.indexes(site.runner, server.programs),
                clock=time.monotonic,
            )
            found.extend(comparison.findings())
            found.append(indexes.result())
    return tuple(found)


def conclude(site: Site, attempt: Attempt, findings: Sequence[Finding]) -> Verification:
    """Turn all findings into a verdict, record it in the catalog, attest it beside the backup, remove the scratch."""
    outcome = verdict(findings)
    reason = failures(findings)
    site.catalog.conclude(
        attempt.backup_id,
        repository=attempt.repository,
        attempt=attempt.number,
        verdict=outcome,
        reason=reason,
        now=site.clock(),
    )
    verification = site.catalog.verification(attempt.backup_id, repository=attempt.repository, attempt=attempt.number)
    if verification is None:
        raise RefusedError(f"the catalog lost attempt {attempt.number} on {attempt.backup_id}")
    _attest(site, attempt, verification)
    discard(attempt)
    level = logging.INFO if outcome is Verdict.VERIFIED else logging.ERROR
    log.log(
        level,
        "backup %s in %s: %s after %.1f s",
        attempt.backup_id,
        attempt.repository,
        outcome,
        verification.seconds,
    )
    return verification


def pending(site: Site, cluster: str) -> tuple[tuple[str, str], ...]:
    """Say which copies to prove: all whose backup has no verdict, and the one of each repository proved longest ago."""
    wanted: list[tuple[str, str]] = []
    oldest: dict[str, tuple[str, str, str]] = {}
    states = frozenset({State.CAPTURED, State.VERIFIED})
    for backup in site.catalog.backups(cluster, states=states):
        for copy in backup.copies:
            if copy.repository not in site.repositories or copy.state is CopyState.EXPIRED:
                continue
            if copy.state is CopyState.STORED and backup.state is State.CAPTURED:
                wanted.append((backup.id, copy.repository))
            else:
                candidate = (
                    copy.verified_at.isoformat() if copy.verified_at else "",
                    backup.id,
                    copy.repository,
                )
                oldest[copy.repository] = min(oldest.get(copy.repository, candidate), candidate)
    return (*wanted, *((backup_id, repository) for _, backup_id, repository in oldest.values()))


@contextlib.contextmanager
def _recorded(site: Site, attempt: Attempt, step: str) -> Iterator[list[Finding]]:
    """Record a step's findings in the catalog, also those that it made before an error."""
    found: list[Finding] = []
    try:
        yield found
    finally:
        site.catalog.found(
            attempt.backup_id,
            repository=attempt.repository,
            attempt=attempt.number,
            step=step,
            findings=found,
        )
        for finding in found:
            mark = "ok" if finding.ok else "FAILED"
            log.info("%s: %s (%.1f s) %s", finding.name, mark, finding.seconds, finding.detail)


def _note(found: list[Finding], name: str, check: named.Check) -> bool:
    """Run a check; what a refusal says becomes the finding, any other error is nobody's verdict."""

    def answer() -> named.Answer:
        try:
            return check()
        except RefusedError as error:
            detail = error.message if error.detail is None else f"{error.message}: {error.detail}"
            return False, detail, error.hint or "verify another copy of this backup; take a new one"

    found.append(timed(name, answer, clock=time.monotonic))
    return found[-1].ok


def _fetch_plain(site: Site, store: Store, description: Description, folder: Path) -> int:
    """Check the stored bytes; an encrypted backup's are read once more when they are decrypted, checked again then."""
    folder.mkdir(mode=0o700, parents=True)
    if description.manifest.encrypted:
        check_stored(store, description)
    else:
        for file in description.manifest.files:
            fetch_file(site, store, description, file, b"", folder)
    return len(description.digests) + 1


def _decrypt(site: Site, store: Store, description: Description, folder: Path) -> named.Answer:
    passphrase = open_passphrase(site, store, description)
    files = [file for file in description.manifest.files if not KEY_FILE.fullmatch(file.name)]
    for file in files:
        fetch_file(site, store, description, file, passphrase, folder)
    return True, f"{len(files)} files", ""


def _decode(site: Site, manifest: Manifest, attempt: Attempt) -> named.Answer:
    """Read each dump's table of contents, then decode it all: the former alone passes on half a dump."""
    server = server_for(site, manifest, attempt.server)
    entries = 0
    for database in manifest.databases:
        archive = _archive(manifest, manifest.dump(database), attempt)
        try:
            listing, _ = site.runner.run(dump.list_archive(server.programs, archive))
            site.runner.run(dump.decode_archive(server.programs, archive))
        except ProgramFailed as error:
            if error.by_signal:
                raise
            raise RefusedError(f"the dump of {database.name!r} does not decode", detail=error.detail) from None
        entries += sum(1 for line in listing.splitlines() if line and not line.startswith(b";"))
    return True, f"{len(manifest.databases)} dumps, {entries} entries", ""


def _archive(manifest: Manifest, file: File, attempt: Attempt) -> Path:
    name = file.name.removesuffix(".gpg") if manifest.encrypted else file.name
    path = attempt.files / name.removesuffix(".tar")
    if not path.exists():
        raise UnfitError(
            "the decrypted files are not on this machine",
            detail=str(path),
            hint="the tasks of one verification must run on one machine: serve the cluster's queue by one worker",
        )
    return path


def _restore(
    site: Site,
    manifest: Manifest,
    attempt: Attempt,
    server: ThrowAwayServer,
    parameters: ConnectionParameters,
    jobs: int,
) -> named.Answer:
    globals_file = next(file for file in manifest.files if file.name.startswith("globals.sql"))
    text = _archive(manifest, globals_file, attempt).read_bytes().decode(errors="surrogateescape")
    try:
        restore_globals(parameters, text, manifest.bootstrap_superuser)
    except psycopg.Error as error:
        return False, f"globals: {error.diag.message_primary or error}", "the roles of the source cannot be made again"
    restored: list[Restored] = []
    for database in manifest.databases:
        archive = _archive(manifest, manifest.dump(database), attempt)
        restored.append(restore_database(site, manifest, database, archive, server, parameters, jobs=jobs))
    errors = [f"{one.database}: {error}" for one in restored for error in one.errors]
    _remember(attempt, restored)
    detail = f"{len(restored)} databases" if not errors else named.some(errors)
    return not errors, detail, "run restore.sh on a test server to see every error"


def _remember(attempt: Attempt, restored: Sequence[Restored]) -> None:
    """Keep for the next step which foreign keys the rows violate."""
    names = [(one.database, name) for one in restored for name in one.violated_foreign_keys]
    (attempt.folder / _VIOLATIONS).write_text(json.dumps(names), encoding="utf-8")


def _violations(attempt: Attempt) -> frozenset[tuple[str, str]]:
    if not (attempt.folder / _VIOLATIONS).exists():
        return frozenset()  # a physical backup: its rows were not inserted again
    names = json.loads((attempt.folder / _VIOLATIONS).read_text(encoding="utf-8"))
    return frozenset((database, name) for database, name in names)


def _manifest(site: Site, attempt: Attempt) -> Manifest:
    store = site.repositories[attempt.repository]
    return describe_copy(store, BackupId.parse(attempt.backup_id)).manifest


def _attest(site: Site, attempt: Attempt, verification: Verification) -> None:
    """Write the verdict beside the copy; a repository that refuses it does not change the verdict."""
    name, text = seal(Attestation.of(verification))
    try:
        with site.repositories[attempt.repository].create(BackupId.parse(attempt.backup_id).key(name)) as sink:
            sink.write(text)
    except PgBackupError as error:
        log.warning("the verdict on %s could not be written beside it: %s", attempt.backup_id, error)

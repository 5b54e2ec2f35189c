"""The steps of a verification. Each stands on what the one before left in the attempt's folder, records its findings in
the catalog, and can be tried again: Airflow runs them as tasks, ``verify`` one after the other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg

from pgbackup.domain import findings as named
from pgbackup.domain.attestation import Attestation, seal
from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnfitError
from pgbackup.domain.findings import failures, merged, remark, timed, verdict
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import File, Manifest
from pgbackup.domain.model import ConnectionParameters, CopyState, Finding, Kind, State, Verdict, Verification
from pgbackup.domain.ports import Site, Store
from pgbackup.postgres import dump
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.adopted import comparison
from pgbackup.restore.chain import Link, fetch_links, read_chain
from pgbackup.restore.compare import Comparison
from pgbackup.restore.fetch import Description, check_stored, describe_copy
from pgbackup.restore.isolated import Restored, restore_database, restore_globals, server_for
from pgbackup.verify.attempt import Attempt, discard, empty, held
from pgbackup.verify.physical import check_pages, comparisons, lay_out, replay

log = logging.getLogger(__name__)

FILES = "files"
RESTORE = "restore"
CONTENTS = "contents"
_VIOLATIONS = "violated_foreign_keys.json"


def check_files(site: Site, attempt: Attempt) -> tuple[Finding, ...]:
    """Fetch every object, compare checksums, decrypt; unpack a physical backup's chain and compare its files."""
    store = site.repositories[attempt.repository]
    jobs = site.settings.cluster(BackupId.parse(attempt.backup_id).cluster).verify_backup.jobs
    with held(attempt), _recorded(site, attempt, FILES) as found:
        empty(attempt)
        chain: list[Description] = []
        links: list[Link] = []

        def read() -> named.Answer:
            chain.extend(_sound_chain(site, store, attempt))
            if chain[-1].manifest.encrypted:  # read once more when they are decrypted, and checked again then
                total = sum(check_stored(store, description) for description in chain)
            else:
                total = sum(description.manifest.stored_bytes for description in chain)
                links.extend(fetch_links(site, store, chain, attempt.files, jobs=jobs))
            return True, f"{sum(len(one.digests) + 1 for one in chain)} files, {total} bytes", ""

        def decrypt() -> named.Answer:
            links.extend(fetch_links(site, store, chain, attempt.files, jobs=jobs))
            return True, f"{sum(len(one.manifest.files) for one in chain)} files", ""

        if not _note(found, named.BYTES, read):
            return tuple(found)
        if not links and not _note(found, named.DECRYPT, decrypt):
            return tuple(found)
        if chain[-1].manifest.kind is not Kind.FULL:
            _note(found, named.MANIFEST_FILES, lambda: lay_out(site, links, attempt))
    return tuple(found)


def check_restore(site: Site, attempt: Attempt) -> tuple[Finding, ...]:
    """Restore globals and databases into a new throw-away server, or replay a physical backup; leave it stopped."""
    manifest = _manifest(site, attempt)
    server = server_for(site, manifest, attempt.server)
    jobs = site.settings.cluster(manifest.cluster).verify_backup.jobs
    with held(attempt), _recorded(site, attempt, RESTORE) as found:
        if manifest.kind is not Kind.FULL:
            if _note(found, named.RECOVERY, lambda: replay(site, _chain(site, attempt), attempt)):
                _note(found, named.PAGES, lambda: check_pages(site, manifest, attempt))
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
    """Start the restored server (several, for several marked points) and compare everything with the manifest."""
    manifest = _manifest(site, attempt)
    settings = site.settings.cluster(manifest.cluster)
    with held(attempt), _recorded(site, attempt, CONTENTS) as found:
        if manifest.kind is Kind.FULL:
            server = server_for(site, manifest, attempt.server)
            compare = partial(comparison, manifest, settings, violated=_violations(attempt))
            found.extend(_compare(site, server, compare))
        else:
            parts = [_compare(site, server, compare) for server, compare in comparisons(site, manifest, attempt)]
            found.extend(merged(parts))
    return tuple(found)


def _compare(
    site: Site, server: ThrowAwayServer, compare: Callable[[ConnectionParameters], Comparison]
) -> list[Finding]:
    if not (server.data / "PG_VERSION").exists():
        raise UnfitError(
            "the restored server is not on this machine",
            detail=str(server.data),
            hint="the tasks of one verification must run on one machine: serve the cluster's queue by one worker",
        )
    with server.running() as parameters:
        compared = compare(parameters)
        with ThreadPoolExecutor(max_workers=1) as pool:
            indexes = pool.submit(
                timed,
                named.INDEXES,
                lambda: compared.indexes(site.runner, server.programs),
                clock=time.monotonic,
            )
            return [*compared.findings(), indexes.result()]


def conclude(site: Site, attempt: Attempt, findings: Sequence[Finding]) -> Verification:
    """Turn all findings into a verdict, record it in the catalog, attest it beside the backup, remove the scratch."""
    outcome: Verdict | None = verdict(findings)
    reason = failures(findings) or remark(findings)
    states = {copy.repository: copy.state for copy in site.catalog.copies(attempt.backup_id)}
    if outcome is Verdict.REJECTED and states.get(attempt.repository) is CopyState.EXPIRED:
        outcome, reason = None, "it was deleted while it was verified"
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
    """Say which copies to prove: one of each backup without a verdict, and each repository's proved longest ago."""
    wanted: list[tuple[str, str]] = []
    oldest: dict[str, tuple[str, str, str]] = {}
    states = frozenset({State.CAPTURED, State.VERIFIED})
    for backup in site.catalog.backups(cluster, states=states):
        stored = {copy.repository for copy in backup.copies if copy.state is CopyState.STORED} & set(site.repositories)
        if backup.state is State.CAPTURED and stored:
            wanted.append((backup.id, site.local.name if site.local.name in stored else min(stored)))
        for copy in backup.copies:
            if copy.repository not in site.repositories or copy.state in {CopyState.EXPIRED, CopyState.DAMAGED}:
                continue  # a damaged one is copied again before it is tried again
            if backup.state is State.VERIFIED:
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


def _sound_chain(site: Site, store: Store, attempt: Attempt) -> tuple[Description, ...]:
    """Return the backup's chain, the base first; a rejected link rejects what stands on it."""
    chain = read_chain(site, store, attempt.backup_id)
    for description in chain[:-1]:
        known = site.catalog.backup(description.manifest.id)
        if known is not None and known.state is State.REJECTED:
            raise RefusedError(
                f"it stands on {known.id}, which is rejected", hint="the next incremental run takes a new base"
            )
    return chain


def _chain(site: Site, attempt: Attempt) -> tuple[Manifest, ...]:
    store = site.repositories[attempt.repository]
    return tuple(description.manifest for description in read_chain(site, store, attempt.backup_id))


def _files_of(attempt: Attempt, manifest: Manifest) -> Path:
    return attempt.files / manifest.id


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
    path = _files_of(attempt, manifest) / name.removesuffix(".tar")
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
    text = _archive(manifest, manifest.globals(), attempt).read_bytes().decode(errors="surrogateescape")
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
    names = json.loads((attempt.folder / _VIOLATIONS).read_text(encoding="utf-8"))
    return frozenset((database, name) for database, name in names)


def _manifest(site: Site, attempt: Attempt) -> Manifest:
    store = site.repositories[attempt.repository]
    return describe_copy(site, store, BackupId.parse(attempt.backup_id)).manifest


def _attest(site: Site, attempt: Attempt, verification: Verification) -> None:
    """Write the verdict beside the copy; a repository that refuses it does not change the verdict."""
    name, text = seal(Attestation.of(verification))
    try:
        with site.repositories[attempt.repository].create(BackupId.parse(attempt.backup_id).key(name)) as sink:
            sink.write(text)
    except PgBackupError as error:
        log.warning("the verdict on %s could not be written beside it: %s", attempt.backup_id, error)

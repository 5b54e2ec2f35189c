"""The physical base backup: equal to its source at the marked point, row for row, while the source is busy."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.site import with_settings
from tests.support.source import Source
from tests.support.traffic import Traffic

from pgbackup.capture import capture_full, capture_night
from pgbackup.domain.errors import PgBackupError, RefusedError, UnavailableError, UnfitError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Kind, State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.domain.sums import format_sums, parse_sums
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.verify import check_contents, check_files, check_restore, open_attempt, verify
from pgbackup.verify.physical import replay

GRANT = "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO backup"


@pytest.fixture(scope="module")
def busy() -> Iterator[Source]:
    own = Source()
    try:
        own.load_sample("streamflix")
        own.execute(GRANT)
        yield own
    finally:
        own.remove()


def content(site: Site, manifest: Manifest) -> tuple[Verdict | None, str]:
    verification = verify(site, manifest.id, "local")
    [detail] = [one.detail for one in verification.findings if one.name == "rows and contents equal the source"]
    return verification.verdict, detail


@pytest.mark.parametrize("round_", range(3))
def test_a_base_of_a_busy_server_is_equal_at_its_marked_point(
    busy: Source, site_for: Callable[..., Site], round_: int
) -> None:
    site = site_for(busy)
    with Traffic(busy, "streamflix") as traffic:
        full, base = capture_night(site, "streamflix")
    assert traffic.transfers > 0
    assert (full.kind, base.kind) == (Kind.FULL, Kind.BASE)
    marked = {entry.name: entry.marked_lsn for entry in base.databases}
    assert marked["streamflix"] is not None
    assert Lsn.parse(base.stop_lsn or "") <= Lsn.parse(marked["streamflix"]) <= Lsn.parse(base.end_lsn or "")
    verdict, detail = content(site, base)
    assert verdict is Verdict.VERIFIED
    assert "streamflix" not in detail, detail  # every one of its tables was compared
    assert content(site, full)[0] is Verdict.VERIFIED


def test_a_base_replayed_to_another_moment_is_rejected(busy: Source, site_for: Callable[..., Site]) -> None:
    """The comparison must be able to fail: an earlier moment is not the snapshot's."""
    site = site_for(busy)
    with Traffic(busy, "streamflix"):
        bases = (capture_night(site, "streamflix")[1] for _ in range(5))
        base = next(base for base in bases if committed_since(busy, base))
    folder = site.settings.paths.backups / BackupId.parse(base.id).directory
    shift(folder, base)
    verdict, detail = content(site, base)
    assert verdict is Verdict.REJECTED
    assert "account" in detail or "transfer" in detail


def committed_since(source: Source, base: Manifest) -> int:
    """Count what was committed between the first moment that a base can show and its marked point, as the WAL tells."""
    [mark] = {entry.marked_lsn for entry in base.databases if entry.name == "streamflix"}
    argv = [str(source.bin / "pg_waldump"), f"--path={source.data}/pg_wal", "--rmgr=Transaction"]
    argv += [f"--start={base.stop_lsn}", f"--end={mark}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.count("desc: COMMIT")


def shift(folder: Path, base: Manifest) -> None:
    """Let the manifest of the base claim the first moment that it can show, before what was written since."""
    restate(folder, str(Lsn.parse(base.stop_lsn or "").plus(1)))


def restate(folder: Path, mark: str | None) -> None:
    """Give every database of a base's manifest another marked point, with fitting checksums."""
    document = json.loads((folder / MANIFEST).read_text())
    for entry in document["databases"]:
        entry["marked_lsn"] = mark
        entry["snapshot"] = entry["snapshot"].rpartition(":")[0] + ":"  # nor may the running transactions tell
    text = json.dumps(document).encode()
    (folder / MANIFEST).write_bytes(text)
    digests = parse_sums((folder / SUMS).read_bytes(), source="the test")
    (folder / SUMS).write_bytes(format_sums({**digests, MANIFEST: sha256(text).hexdigest()}))


def test_a_base_whose_rows_cannot_be_compared_gets_no_verdict(busy: Source, site_for: Callable[..., Site]) -> None:
    """Nothing that was not found equal may count; nor is it the backup's fault."""
    site = site_for(busy)
    _, base = capture_night(site, "streamflix")
    restate(site.settings.paths.backups / BackupId.parse(base.id).directory, None)
    with pytest.raises(UnfitError, match="no verdict"):
        verify(site, base.id, "local")
    backup = site.catalog.backup(base.id)
    assert backup is not None
    assert backup.state is State.CAPTURED


def test_an_unpacking_that_somebody_stops_gives_no_verdict(busy: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(busy)
    _, base = capture_night(site, "streamflix")
    site.runner.terminate()
    with pytest.raises(UnavailableError, match="told to stop"):
        verify(site, base.id, "local")
    backup = site.catalog.backup(base.id)
    assert backup is not None
    assert backup.state is State.CAPTURED


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("FATAL:  recovery ended before configured recovery target was reached", RefusedError),
        ("PANIC:  could not write to file: No space left on device", UnavailableError),
        ("LOG:  received smart shutdown request", UnavailableError),
    ],
)
def test_only_what_the_backup_did_rejects_it(
    busy: Source,
    site_for: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    error: type[PgBackupError],
) -> None:
    """The server's last words decide between a rejection and no verdict."""
    site = site_for(busy)
    _, base = capture_night(site, "streamflix")
    attempt = open_attempt(site, base.id, "local")
    assert all(finding.ok for finding in check_files(site, attempt))

    @contextlib.contextmanager
    def dies(_server: ThrowAwayServer, **_options: float) -> Iterator[None]:
        raise UnavailableError("the throw-away server does not start", detail=lines)
        yield

    monkeypatch.setattr(ThrowAwayServer, "recovering", dies)
    with pytest.raises(error):
        replay(site, [base], attempt)


def test_a_replay_that_is_tried_again_judges_the_same(busy: Source, site_for: Callable[..., Site]) -> None:
    """A task that died behind the promotion must not reject the backup when it is tried again."""
    site = site_for(busy)
    _, base = capture_night(site, "streamflix")
    attempt = open_attempt(site, base.id, "local")
    assert all(finding.ok for finding in check_files(site, attempt))
    for _ in range(2):
        assert all(finding.ok for finding in check_restore(site, attempt))
    assert all(finding.ok for finding in check_contents(site, attempt))


def test_a_flipped_byte_in_the_base_is_rejected(busy: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(busy)
    _, base = capture_night(site, "streamflix")
    path = site.settings.paths.backups / BackupId.parse(base.id).directory / "base.tar.zst.gpg"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    assert verify(site, base.id, "local").verdict is Verdict.REJECTED


def test_a_base_that_fails_does_not_cost_the_dump(busy: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(busy)
    busy.execute("REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM backup")
    try:
        with pytest.raises(PgBackupError, match="right"):
            capture_night(site, "streamflix")
    finally:
        busy.execute(GRANT)
    states = {backup.kind: backup.state for backup in site.catalog.backups()}
    assert states == {Kind.BASE: State.FAILED, Kind.FULL: State.CAPTURED}
    assert not any(site.local.list("base/"))


def test_base_can_be_switched_off(busy: Source, site_for: Callable[..., Site]) -> None:
    site = site_for(busy)
    options = site.settings.cluster("streamflix").full_backup.model_copy(update={"base": False})
    [full] = capture_night(with_settings(site, full_backup=options), "streamflix")
    assert full.kind is Kind.FULL
    assert capture_full(site, "streamflix").kind is Kind.FULL

"""The engine killed with SIGKILL at every moment: nothing half-done is taken for a backup, and the next run works."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.doomed import Call, Nursery, eventually_nobody
from tests.support.keys import KeyPair
from tests.support.site import make_site
from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.domain.ids import SUMS, BackupId
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import State, Verdict
from pgbackup.domain.ports import Site
from pgbackup.restore.fetch import check_stored, describe_copy
from pgbackup.verify import verify

CLUSTER = {"exclude_databases": ["postgres"]}

# Every moment of an encrypted capture of one database; the comments say what the program is for.
CAPTURE = (
    "before begin",
    "after begin",
    "started gpg",  # reads a recipient's key
    "started pg_dump",  # its version
    "started gpg #2",
    "started gpg #3",  # wraps the passphrase
    "open key.1.gpg",
    "written key.1.gpg",
    "stored key.1.gpg",
    "started pg_dumpall",
    "started pg_dumpall #2",
    "open globals.sql.gpg",
    "started gpg #4",
    "written globals.sql.gpg",
    "stored globals.sql.gpg",
    "open library.dump.gpg",
    "started pg_dump #2",
    "started gpg #5",
    "written library.dump.gpg",
    "stored library.dump.gpg",
    "open manifest.json",
    "written manifest.json",
    "stored manifest.json",
    "open SHA256SUMS",
    "written SHA256SUMS",
    "stored SHA256SUMS",
    "before captured",
    "after captured",
)
# Of a parallel capture: what differs.
PARALLEL = ("started pg_dump #2", "started tar")
# The moments of a verification at which something new is alive or on disk.
VERIFICATION = (
    "after begin_verification",
    "started pg_restore",
    "started initdb",
    "started pg_restore #3",
    "started pg_amcheck",
    "before conclude",
    "after conclude",
    "open verdict-local-0001",
)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    own = Nursery()
    yield own
    own.close()


@pytest.fixture
def call(library: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path) -> Call:
    return Call(
        verb="capture",
        folder=str(tmp_path),
        bin=str(library.bin),
        socket=str(library.folder),
        port=library.port,
        catalog_dsn=catalog_dsn,
        key=(str(key.public), str(key.private), str(key.passphrase_file)),
        cluster=CLUSTER,
    )


@pytest.fixture
def site(library: Source, catalog_dsn: str, key: KeyPair, tmp_path: Path) -> Site:
    return make_site(tmp_path, library, catalog_dsn, key, **CLUSTER)


@pytest.fixture
def plain_site(library: Source, catalog_dsn: str, tmp_path: Path) -> Site:
    return make_site(tmp_path, library, catalog_dsn, None, **CLUSTER)


def committed(site: Site) -> list[str]:
    """What anybody who looks at the repository takes for a backup."""
    return [found.key.split("/")[1] for found in site.local.list("full/") if found.key.endswith(f"/{SUMS}")]


def check_whole(site: Site, backup_id: str) -> Manifest:
    description = describe_copy(site, site.local, BackupId.parse(backup_id))
    check_stored(site.local, description)
    return description.manifest


def strangers(site: Site) -> list[Path]:
    """What is in the repository's folder and belongs to no backup."""
    root = site.settings.paths.backups
    known = {root / "full", site.spool, site.spool / "verify", *(root / "full" / name for name in committed(site))}
    return [path for folder in known if folder.is_dir() for path in folder.iterdir() if not belongs(path, known)]


def belongs(path: Path, known: set[Path]) -> bool:
    return path in known or (path.parent.parent.name == "full" and not path.name.startswith("."))


def kill(nursery: Nursery, call: Call, moment: str) -> list[str]:
    status, trace = nursery.run(call, moment)
    assert status == -signal.SIGKILL
    assert trace[-1] == moment
    assert eventually_nobody(call) == []
    return trace


def test_the_moments_are_all_there_are(nursery: Nursery, call: Call) -> None:
    status, trace = nursery.run(call, None)
    assert status == 0
    assert sorted(trace) == sorted(CAPTURE)


@pytest.mark.parametrize("moment", CAPTURE)
def test_a_killed_capture_is_a_whole_backup_or_none(nursery: Nursery, call: Call, site: Site, moment: str) -> None:
    trace = kill(nursery, call, moment)
    whole = ["stored SHA256SUMS"] if "stored SHA256SUMS" in trace else []
    before = committed(site)
    assert len(before) == len(whole)
    assert site.catalog.backups(states=frozenset({State.VERIFIED, State.CAPTURED})) == () or moment == "after captured"

    manifest = capture_full(site, "streamflix")
    assert sorted(committed(site)) == sorted({manifest.id, *before})
    for backup_id in committed(site):
        check_whole(site, backup_id)
    assert strangers(site) == []
    states = {backup.id: backup.state for backup in site.catalog.backups()}
    assert {backup_id for backup_id, state in states.items() if state is State.CAPTURED} == set(committed(site))
    assert set(states.values()) <= {State.CAPTURED, State.FAILED}
    assert len(states) == (1 if moment == "before begin" else 2)


@pytest.mark.parametrize("moment", PARALLEL)
def test_a_killed_parallel_capture_leaves_no_spool(nursery: Nursery, call: Call, plain_site: Site, moment: str) -> None:
    parallel = {**CLUSTER, "full_backup": {"jobs": 2}}
    kill(nursery, dataclasses.replace(call, key=None, cluster=parallel), moment)
    manifest = capture_full(plain_site, "streamflix")
    assert committed(plain_site) == [manifest.id]
    assert strangers(plain_site) == []


def test_a_capture_killed_while_it_cleans_after_a_killed_one_is_cleaned_too(
    nursery: Nursery, call: Call, site: Site
) -> None:
    kill(nursery, call, "written library.dump.gpg")
    kill(nursery, call, "clean")
    manifest = capture_full(site, "streamflix")
    assert committed(site) == [manifest.id]
    assert strangers(site) == []


@pytest.mark.parametrize("moment", ["started gpg #5", "stored manifest.json", "stored SHA256SUMS"])
def test_what_is_there_after_a_kill_and_a_retry_is_verified(
    nursery: Nursery, call: Call, site: Site, moment: str
) -> None:
    kill(nursery, call, moment)
    capture_full(site, "streamflix")
    for backup_id in committed(site):
        assert verify(site, backup_id, "local").verdict is Verdict.VERIFIED
    assert strangers(site) == []


@pytest.mark.parametrize("moment", VERIFICATION)
def test_a_killed_verification_is_done_again_and_leaves_nothing(
    nursery: Nursery, call: Call, plain_site: Site, moment: str
) -> None:
    manifest = capture_full(plain_site, "streamflix")
    kill(nursery, dataclasses.replace(call, verb="verify", backup_id=manifest.id, key=None), moment)
    backup = plain_site.catalog.backup(manifest.id)
    assert backup is not None
    assert backup.state is (
        State.VERIFIED if moment in {"after conclude", "open verdict-local-0001"} else State.CAPTURED
    )

    assert verify(plain_site, manifest.id, "local").verdict is Verdict.VERIFIED
    assert strangers(plain_site) == []


@pytest.mark.parametrize("moment", ["started gpg #2", "started pg_restore"])
def test_no_agent_and_no_plain_file_outlives_a_killed_verification(
    nursery: Nursery, call: Call, site: Site, moment: str
) -> None:
    """Whoever verifies next, under another owner's name too, removes the decrypted files of the dead."""
    manifest = capture_full(site, "streamflix")
    kill(nursery, dataclasses.replace(call, verb="verify", backup_id=manifest.id, owner="somebody else"), moment)
    assert verify(site, manifest.id, "local").verdict is Verdict.VERIFIED
    assert strangers(site) == []

"""The storage audit: each fault is found under its name, and not any more when it is mended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.support.keys import KeyPair, make_key
from tests.support.site import make_site, with_settings
from tests.support.source import Source

from pgbackup.audit import MACHINE, audit, audit_one, audit_text, names
from pgbackup.capture import capture_full
from pgbackup.copy import copy_missing, copy_wal
from pgbackup.domain.errors import ConfigurationError, UnavailableError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.model import Severity
from pgbackup.domain.ports import Site
from pgbackup.domain.sums import format_sums
from pgbackup.domain.wal import Sealed
from pgbackup.scratch import make_private
from pgbackup.store import LocalStore
from pgbackup.stream import GpgKeyring

CLUSTER, FAR = "streamflix", "cellar"
LATER = timedelta(days=3)
"""What nobody finished is left over then, what nobody copied is late."""
Fault = Callable[["Audited"], AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Audited:
    """A site with a backup and three WAL segments in two folders, as it is three days later."""

    site: Site
    backup_id: BackupId

    def root(self, repository: str = "local") -> Path:
        store = self.site.repositories[repository]
        assert isinstance(store, LocalStore)
        return store.root

    def folder(self, repository: str = "local") -> Path:
        return self.root(repository) / self.backup_id.directory

    def file(self, pattern: str, repository: str = "local") -> Path:
        return min(self.root(repository).glob(pattern))

    @property
    def dump(self) -> Path:
        return self.file(f"{self.backup_id.directory}/library.dump.gpg")


def seal(site: Site, number: int) -> None:
    """Archive a segment as the sealer does; what is in it is nothing to the audit."""
    plain = f"segment {number}".encode()
    (command,) = site.keyring.seal()
    data, _ = site.runner.run(command, feed=plain)
    sealed = Sealed(
        cluster=CLUSTER, name=f"0000000100000000{number:08X}", system_identifier="7", timeline=1, segment_size=1 << 24,
        plain_bytes=len(plain), plain_sha256=sha256(plain).hexdigest(), stored_bytes=len(data),
        stored_sha256=sha256(data).hexdigest(), encrypted=True, sealed_at=datetime.now(UTC),
    )  # fmt: skip
    for key, content in ((sealed.data_key, data), (sealed.sidecar_key, sealed.to_json())):
        with site.local.create(key) as sink:
            sink.write(content)


@pytest.fixture(scope="module")
def audited(
    server: Source, library: Source, key: KeyPair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Audited]:
    folder = tmp_path_factory.mktemp("audit")
    server.execute("CREATE DATABASE catalog_of_audit IS_TEMPLATE = false")
    dsn = f"host={server.folder} port={server.port} user=postgres dbname=catalog_of_audit"
    try:
        site = make_site(folder, library, dsn, key)
        repositories = {**site.repositories, FAR: LocalStore(folder / FAR, name=FAR)}
        site = dataclasses.replace(site, repositories=repositories)
        backup_id = BackupId.parse(capture_full(site, CLUSTER).id)
        for number in range(1, 4):
            seal(site, number)
        make_private(site.spool)
        copy_missing(site, CLUSTER, FAR)
        copy_wal(site, CLUSTER, FAR)
        yield Audited(dataclasses.replace(site, clock=lambda: datetime.now(UTC) + LATER), backup_id)
    finally:
        server.execute("DROP DATABASE catalog_of_audit WITH (FORCE)")


def bad(site: Site, place: str = "local") -> dict[str, str]:
    return {one.name: one.detail for one in audit_one(site, place, CLUSTER) if not one.ok}


def test_a_sound_site_has_no_findings(audited: Audited) -> None:
    found = audit(audited.site)
    assert list(found) == [MACHINE, "local", FAR]
    assert [(place, one) for place, some in found.items() for one in some if not one.ok] == []
    details = {one.name: one.detail for one in found["local"]}
    assert str(audited.backup_id) in details[names.RECIPIENTS]
    assert details[names.WAL_ENCRYPTED] == "3 of 3 files read: all"
    assert [len({one.name for one in some}) for some in found.values()] == [len(some) for some in found.values()]
    with pytest.raises(ConfigurationError, match="no repository"):
        audit_one(audited.site, "nowhere")


# ------------------------------------------------------------------------------------ faults, and their mending


def mode(pattern: str, wrong: int) -> Fault:
    @contextlib.contextmanager
    def fault(audited: Audited) -> Iterator[None]:
        path = audited.file(pattern) if pattern else audited.root()
        before = path.stat().st_mode
        path.chmod(wrong)
        yield
        path.chmod(before)

    return fault


@contextlib.contextmanager
def owner(audited: Audited) -> Iterator[None]:
    os.chown(audited.dump, 65534, -1)
    yield
    os.chown(audited.dump, os.geteuid(), -1)


@contextlib.contextmanager
def link(audited: Audited) -> Iterator[None]:
    path = audited.root() / ".incidents"
    path.symlink_to("/var/log")
    yield
    path.unlink()


def holding(data: bytes, pattern: str, repository: str = "local") -> Fault:
    """An object that holds something else, of the same size."""

    @contextlib.contextmanager
    def fault(audited: Audited) -> Iterator[None]:
        path = audited.file(pattern, repository)
        before = path.read_bytes()
        path.write_bytes(data.ljust(len(before), b"x")[: len(before)])
        yield
        path.write_bytes(before)

    return fault


def gone(pattern: str, repository: str = "local") -> Fault:
    @contextlib.contextmanager
    def fault(audited: Audited) -> Iterator[None]:
        path = audited.file(pattern, repository)
        aside = audited.root(repository).parent / "aside"
        path.rename(aside)
        yield
        aside.rename(path)

    return fault


@contextlib.contextmanager
def cut(audited: Audited) -> Iterator[None]:
    before = audited.dump.read_bytes()
    audited.dump.write_bytes(before[:-1])
    yield
    audited.dump.write_bytes(before)


def object_(key: str) -> Fault:
    @contextlib.contextmanager
    def fault(audited: Audited) -> Iterator[None]:
        path = audited.root() / key.format(id=audited.backup_id)
        made = next(one for one in reversed([path, *path.parents]) if not one.exists())
        with audited.site.local.create(key.format(id=audited.backup_id)) as sink:
            sink.write(b"something")
        yield
        shutil.rmtree(made) if made.is_dir() else made.unlink()

    return fault


@contextlib.contextmanager
def another_reader(audited: Audited) -> Iterator[None]:
    """A key file that somebody put there opens for a key of theirs."""
    stranger = make_key(audited.root().parent / "stranger", "stranger")
    settings = audited.site.settings.encryption.model_copy(update={"recipients": (stranger.public,)})
    key = audited.backup_id.key("key.2.gpg")
    with audited.site.local.create(key) as sink:
        sink.write(GpgKeyring(settings, audited.site.runner).wrap(b"secret\n"))
    yield
    audited.site.local.delete(key)


@contextlib.contextmanager
def forgotten(audited: Audited) -> Iterator[None]:
    audited.site.catalog.expire(str(audited.backup_id), repository="local")
    yield
    audited.site.catalog.copied(str(audited.backup_id), repository="local", now=datetime.now(UTC))


DUMP, KEY, WAL = "full/*/library.dump.gpg", "full/*/key.1.gpg", "wal/*/*/*/*.zst.gpg"
_KEY = {names.ENCRYPTED, names.RECIPIENTS}
FAULTS: dict[str, tuple[str, Fault, set[str], str]] = {
    "a file that others read": ("local", mode(DUMP, 0o640), {names.PRIVATE}, "mode 0640"),
    "a folder that others list": ("local", mode("full", 0o705), {names.PRIVATE}, "mode 0705"),
    "a repository that others list": ("local", mode("", 0o750), {names.PRIVATE}, "mode 0750"),
    "scratch that others read": ("local", mode(".spool", 0o755), {names.PRIVATE}, ".spool"),
    "a link that leads out": ("local", link, {names.LINKS}, "/var/log"),
    "a dump that is not encrypted": ("local", holding(b"PGDMP", DUMP), {names.ENCRYPTED}, "library.dump.gpg"),
    "a key file that is not encrypted": ("local", holding(b"secret\n", KEY), _KEY, "key.1.gpg"),
    "WAL that is not encrypted": ("local", holding(b"\x28\xb5\x2f\xfd", WAL), {names.WAL_ENCRYPTED}, ".zst.gpg"),
    "a file of a backup is lost": ("local", gone(DUMP), {names.WHOLE}, "is missing"),
    "a file of a backup is cut": ("local", cut, {names.WHOLE}, "bytes, not"),
    "a manifest is damaged": ("local", holding(b"{}", f"full/*/{MANIFEST}"), {names.WHOLE}, "checksum"),
    "a backup without its end": ("local", gone(f"full/*/{SUMS}"), {names.ORPHANS, names.AGREES}, "never finished"),
    "a description without its WAL": (FAR, gone(WAL, FAR), {names.WHOLE}, "is not there"),
    "WAL without its description": (FAR, gone("wal/*/*/*/*.json", FAR), {names.ORPHANS, names.WAL}, "no description"),
    "WAL that only another has": ("local", gone("wal/*/*/*/*.json"), {names.ORPHANS, names.WAL}, f"in {FAR}"),
    "an object of no backup": ("local", object_("full/{id}/more.gpg"), {names.ORPHANS}, "belongs to no backup"),
    "a capture that was killed": (
        "local",
        object_("base/streamflix_20260101_000000_base/base.tar"),
        {names.ORPHANS},
        "",
    ),
    "an unknown folder": ("local", object_("private/photo.jpg"), {names.STRANGERS}, "private/photo.jpg"),
    "an unknown backup": ("local", object_("full/old.dump"), {names.STRANGERS}, "full/old.dump"),
    "a foreign cluster": ("local", object_("full/other_20260101_000000_full/x"), {names.STRANGERS}, "other_2026"),
    "a sheet in the clear": ("local", object_("recovery/1-protocol.yaml.gpg"), {names.ENCRYPTED}, "protocol.yaml.gpg"),
    "unknown WAL": ("local", object_("wal/streamflix/notes.txt"), {names.STRANGERS}, "notes.txt"),
    "somebody else can read": ("local", another_reader, {names.RECIPIENTS}, "too"),
    "the catalog forgot it": ("local", forgotten, {names.AGREES}, "the catalog does not"),
    "the catalog's backup is gone": (FAR, gone("full/*", FAR), {names.AGREES}, f"{FAR} does not"),
}


@pytest.mark.parametrize(("place", "fault", "expected", "text"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_vanishes_when_it_is_mended(
    audited: Audited, place: str, fault: Fault, expected: set[str], text: str
) -> None:
    with fault(audited):
        found = bad(audited.site, place)
    assert set(found) == expected
    assert any(text in detail for detail in found.values())
    assert bad(audited.site, place) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_account_is_found(audited: Audited) -> None:
    with owner(audited):
        assert set(bad(audited.site)) == {names.OWNER}
    assert bad(audited.site) == {}


def test_what_is_young_is_nobody_s_fault_yet(audited: Audited) -> None:
    now = dataclasses.replace(audited.site, clock=lambda: datetime.now(UTC))
    new = LocalStore(audited.root().parent / "new", name="new")
    with object_("base/streamflix_20260101_000000_base/base.tar")(audited), gone("wal/*/*/*/*.json")(audited):
        assert bad(now) == {}
    site = dataclasses.replace(now, repositories={**now.repositories, "new": new})
    new.root.mkdir(mode=0o700)
    assert bad(site, "new") == {}


def test_drills_sheets_and_what_backup_sh_makes_are_no_strangers(audited: Audited) -> None:
    by_hand = audited.folder().with_name("streamflix_20260101_000000_full")
    with (
        object_("drills/streamflix/20260101_060000-full.json")(audited),
        object_("recovery/RECOVERY.md")(audited),
        contextlib.ExitStack() as cleanup,
    ):
        cleanup.callback(shutil.rmtree, by_hand)
        shutil.copytree(audited.folder(), by_hand, ignore=shutil.ignore_patterns(MANIFEST, "attest", SUMS))
        digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in by_hand.iterdir()}
        with audited.site.local.create(f"full/{by_hand.name}/{SUMS}") as sink:
            sink.write(format_sums(digests))
        by_hand.chmod(0o700)
        assert bad(audited.site) == {}
        (by_hand / "library.dump.gpg").unlink()
        assert set(bad(audited.site)) == {names.WHOLE}


def test_what_was_never_copied_is_missing_until_it_is(audited: Audited) -> None:
    attic = LocalStore(audited.root().parent / "attic", name="attic")
    attic.root.mkdir(mode=0o700)
    site = dataclasses.replace(audited.site, repositories={**audited.site.repositories, "attic": attic})
    assert set(bad(site, "attic")) == {names.COPIES, names.WAL}
    copy_missing(site, CLUSTER, "attic")
    copy_wal(site, CLUSTER, "attic")
    assert bad(site, "attic") == {}


def test_a_new_recipient_is_missed_until_the_backups_have_it(audited: Audited) -> None:
    site = audited.site
    other = make_key(audited.root().parent / "other", "other")
    encryption = site.settings.encryption
    more = encryption.model_copy(update={"recipients": (*encryption.recipients, other.public)})
    settings = site.settings.model_copy(update={"encryption": more})
    keyring = GpgKeyring(more, site.runner)
    found = bad(dataclasses.replace(site, settings=settings, keyring=keyring))
    assert set(found) == {names.RECIPIENTS}
    assert found[names.RECIPIENTS].count("does not open for") == 2, "the dump and the WAL"


def test_objects_are_not_downloaded(audited: Audited) -> None:
    spy = _Spy(audited.site.local)
    site = dataclasses.replace(audited.site, repositories={"local": spy})
    audit_one(site, "local")
    assert any(name.endswith("library.dump.gpg") for name in spy.read_bytes)
    encrypted = {name: count for name, count in spy.read_bytes.items() if name.endswith(".gpg")}
    assert max(encrypted.values()) <= 1 << 14


def test_a_repository_that_does_not_answer_is_one_finding_and_hides_no_other(audited: Audited) -> None:
    down = {**audited.site.repositories, FAR: _Down()}
    found = audit(dataclasses.replace(audited.site, repositories=down))  # type: ignore[arg-type]
    assert [(one.name, one.fails) for one in found[FAR]] == [(names.ANSWERS, True)]
    wal = next(one for one in found["local"] if one.name == names.WAL)
    assert (wal.ok, wal.detail) == (True, f"not compared with {FAR}")
    assert "nothing answers" in audit_text(FAR, found[FAR])


# --------------------------------------------------------------------------------------------------- the machine


def test_keys_and_logs_are_private(audited: Audited) -> None:
    site = audited.site
    private, logs = site.settings.encryption.private_keys[0], site.settings.paths.logs
    logs.mkdir(mode=0o750)
    (logs / "a.log").touch(mode=0o640)
    passfile = logs.parent / "pgpass"
    passfile.touch(mode=0o600)
    settings = with_settings(site).settings
    catalog = settings.catalog.model_copy(update={"passfile": passfile})
    site = dataclasses.replace(site, settings=settings.model_copy(update={"catalog": catalog}))
    assert bad(site, MACHINE) == {}
    for path, wrong, right, name in (
        (private, 0o644, 0o600, names.SECRETS),
        (passfile, 0o660, 0o600, names.SECRETS),
        (logs / "a.log", 0o644, 0o640, names.LOGS),
        (logs, 0o755, 0o750, names.LOGS),
    ):
        path.chmod(wrong)
        assert str(path) in bad(site, MACHINE)[name]
        path.chmod(right)
        assert bad(site, MACHINE) == {}


def test_a_key_that_expires_soon_is_told(audited: Audited) -> None:
    ahead = dataclasses.replace(audited.site, clock=lambda: datetime.now(UTC) + timedelta(days=715))
    assert "expires on" in bad(ahead, MACHINE)[names.EXPIRY]


@pytest.mark.parametrize(
    ("grant", "revoke", "right"),
    [
        ("GRANT pg_write_all_data TO backup", "REVOKE pg_write_all_data FROM backup", "pg_write_all_data"),
        ("ALTER ROLE backup CREATEDB", "ALTER ROLE backup NOCREATEDB", "createdb"),
        ("ALTER ROLE backup CREATEROLE", "ALTER ROLE backup NOCREATEROLE", "createrole"),
        ("GRANT postgres TO backup", "REVOKE postgres FROM backup", "superuser postgres"),
    ],
)
def test_a_role_that_can_write_is_told(audited: Audited, library: Source, grant: str, revoke: str, right: str) -> None:
    library.execute(grant)
    try:
        assert right in bad(audited.site, MACHINE)[names.role_of(CLUSTER)]
    finally:
        library.execute(revoke)
    assert bad(audited.site, MACHINE) == {}


def test_a_superuser_is_told_and_a_server_that_is_down_is_not_judged(audited: Audited, library: Source) -> None:
    site = dataclasses.replace(audited.site, connections=lambda _: library.parameters("postgres"))
    assert "superuser" in bad(site, MACHINE)[names.role_of(CLUSTER)]
    nowhere = dataclasses.replace(site, connections=lambda _: library.parameters().replace(port="1"))
    (found,) = [one for one in audit_one(nowhere, MACHINE) if not one.ok]
    assert (found.name, found.severity, found.fails) == (names.role_of(CLUSTER), Severity.UNKNOWN, False)


class _Spy:
    """Counts what is read of each object."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.read_bytes: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Any]:
        with self._store.open(key) as source:
            spy = self

            class Reader:
                def read(self, size: int = -1) -> bytes:
                    data: bytes = source.read(size)
                    spy.read_bytes[key] = spy.read_bytes.get(key, 0) + len(data)
                    return data

            yield Reader()


class _Down:
    name = FAR

    def list(self, _prefix: str) -> Iterator[Any]:
        raise UnavailableError("nothing answers")

"""Old backups and new keys: who opens what, what counts as signed, and what neither forgery nor damage can hide."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.keys import KeyPair, make_key, revoke, stock_sign
from tests.support.manifests import MOMENT, manifest
from tests.support.site import make_site

from pgbackup.capture.writer import BackupWriter
from pgbackup.domain.errors import BusyError, RefusedError, UnavailableError, UnfitError, WrongKeyError
from pgbackup.domain.ids import MANIFEST, SIGNATURE, SUMS, BackupId
from pgbackup.domain.keys import Key, Role
from pgbackup.domain.model import Command, ConnectionParameters, Finding, Kind, Verdict
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.settings import Encryption
from pgbackup.domain.wal import Sealed
from pgbackup.keys import add_keys, check_keys, report_keys, sign_backups
from pgbackup.restore.chain import read_chain
from pgbackup.restore.fetch import DamagedError, describe_copy, key_files, open_passphrase, try_passphrase
from pgbackup.restore.rebuild import rebuild
from pgbackup.rotate import apply, plan
from pgbackup.store import LocalStore
from pgbackup.stream import GpgKeyring
from pgbackup.watch import names, watch
from pgbackup.watch.keys import keys_last

CLUSTER = "streamflix"
DAY = timedelta(days=1)
SEGMENT = 1 << 20


@pytest.fixture(scope="module")
def new_key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(
        tmp_path_factory.mktemp("new"), "operations"
    )  # the other one's passphrase: both are unlocked at once


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(tmp_path_factory.mktemp("signer"), "signer", encrypts=False)


@pytest.fixture
def site(tmp_path: Path, key: KeyPair, catalog_dsn: str) -> Site:
    """A site with a catalog and no server to protect: one that is asked is an error."""
    nothing = SimpleNamespace(bin=tmp_path)
    return make_site(tmp_path, nothing, catalog_dsn, key, ConnectionParameters({"host": "/nonexistent"}))  # type: ignore[arg-type]


def keyed(site: Site, **encryption: Any) -> Site:
    """The same site with other keys: lists of key pairs, or values as they are."""
    given = {
        name: [getattr(one, "private" if name == "private_keys" else "public", one) for one in value]
        if isinstance(value, list)
        else value
        for name, value in encryption.items()
    }
    if private := encryption.get("private_keys"):
        given["passphrase_file"] = private[0].passphrase_file
    changed = Encryption.model_validate({**site.settings.encryption.model_dump(), **given})
    settings = site.settings.model_copy(update={"encryption": changed})
    return dataclasses.replace(site, settings=settings, keyring=GpgKeyring(changed, site.runner))


def signing(site: Site, signer: KeyPair, *verify: KeyPair | Path) -> Site:
    return keyed(
        site,
        signing_key=signer.private,
        signing_passphrase_file=signer.passphrase_file,
        verify_keys=list(verify or (signer,)),
    )


def back_up(site: Site, age: int = 0, kind: Kind = Kind.FULL) -> BackupId:
    """A backup that nobody could restore, but that is stored, encrypted and signed as any."""
    moment = MOMENT - age * DAY
    backup_id = BackupId.at(CLUSTER, moment, kind)
    writer = BackupWriter(site, backup_id)
    writer.put("globals.sql", b"CREATE ROLE app;\n")
    writer.put("d.dump", b"rows" * 1000)
    writer.commit(
        manifest(moment=moment, id=str(backup_id), kind=kind, files=writer.files, recipients=writer.recipients)
    )
    return backup_id


def put(store: Store, key: str, data: bytes) -> None:
    store.delete(key)
    with store.create(key) as sink:
        sink.write(data)


def seal(site: Site, number: int) -> None:
    """A segment of the archive, with a header that fits and nothing else."""
    name = f"0000000100000000{number:08X}"
    header = struct.pack("=HHIQI4xQII", 0xD116, 2, 1, number * SEGMENT, 0, 7, SEGMENT, 8192)
    plain, stored = header.ljust(SEGMENT, b"\0"), io.BytesIO()
    compress = Command(("zstd", "-1", "--quiet", "--stdout"))
    site.runner.pipe(io.BytesIO(plain), through=(compress, *site.keyring.seal()), sink=stored)
    sealed = Sealed(
        cluster=CLUSTER, name=name, system_identifier="7", timeline=1, segment_size=SEGMENT, plain_bytes=len(plain),
        plain_sha256=sha256(plain).hexdigest(), stored_bytes=len(stored.getvalue()),
        stored_sha256=sha256(stored.getvalue()).hexdigest(), encrypted=True, sealed_at=datetime.now(UTC),
    )  # fmt: skip
    put(site.local, sealed.data_key, stored.getvalue())
    put(site.local, sealed.sidecar_key, sealed.to_json())


def contents(store: Store) -> dict[str, bytes]:
    return {info.key: store.read(info.key) for info in store.list("")}


def opens(site: Site, backup_id: BackupId) -> bool:
    description = describe_copy(site, site.local, backup_id)
    return bool(try_passphrase(site, site.local, description, open_passphrase(site, site.local, description)))


# -------------------------------------------------------------------------------------------------------- rotation


def test_one_small_object_lets_new_recipients_in(site: Site, key: KeyPair, new_key: KeyPair) -> None:
    older, newer = back_up(site, 1), back_up(site)
    before = contents(site.local)
    with pytest.raises(WrongKeyError):
        opens(keyed(site, private_keys=[new_key]), newer)
    changed = keyed(site, recipients=[new_key])
    done = add_keys(changed, CLUSTER, "local", backup_id=str(newer))
    assert done.added == (newer.key("key.2.gpg"),)
    done = add_keys(changed, CLUSTER, "local")
    assert (done.added, done.served, done.failures) == ((older.key("key.2.gpg"),), (str(newer),), {})
    after = contents(site.local)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    for one in (older, newer):
        assert opens(keyed(site, private_keys=[new_key]), one)
        assert opens(site, one)
    again = add_keys(changed, CLUSTER, "local")
    assert (again.added, len(again.served)) == ((), 2)
    back = add_keys(keyed(site, recipients=[key, new_key]), CLUSTER, "local", backup_id=str(older))
    assert back.added == (older.key("key.3.gpg"),)
    assert contents(site.local).keys() - after.keys() == {older.key("key.3.gpg")}


def test_a_backup_that_does_not_open_keeps_no_other_from_it(site: Site, key: KeyPair, new_key: KeyPair) -> None:
    lost = back_up(keyed(site, recipients=[make_key(key.public.parent / "lost", "lost")]), 2)
    mine = back_up(site, 1)
    done = add_keys(keyed(site, recipients=[new_key]), CLUSTER, "local")
    assert done.added == (mine.key("key.2.gpg"),)
    assert list(done.failures) == [str(lost)]
    assert "none of our private keys" in done.failures[str(lost)]


def test_tenth_key_file_is_newer_than_the_ninth(site: Site) -> None:
    backup_id = back_up(site)
    for number in (2, 9, 10):
        put(site.local, backup_id.key(f"key.{number}.gpg"), b"")
    put(site.local, backup_id.key("key.1.dump.gpg"), b"")
    assert key_files(site.local, backup_id) == ("key.10.gpg", "key.9.gpg", "key.2.gpg", "key.1.gpg")


def test_keys_change_only_while_nothing_is_deleted_or_taken(site: Site, signer: KeyPair, new_key: KeyPair) -> None:
    """Each repository by itself: what happens in one keeps no keys from another."""
    far = LocalStore(site.settings.paths.backups.with_name("far"), name="far")
    here = back_up(site)
    back_up(dataclasses.replace(site, repositories={"local": far}))
    changed = keyed(dataclasses.replace(site, repositories={**site.repositories, "far": far}), recipients=[new_key])
    before = contents(site.local)
    with site.catalog.exclusive(CLUSTER, purpose="backup"):
        for change in (add_keys, sign_backups):
            with pytest.raises(BusyError, match="change of keys"):
                change(signing(changed, signer), CLUSTER, "local")
        assert add_keys(changed, CLUSTER, "far").added == (here.key("key.2.gpg"),)
    assert contents(site.local) == before
    assert add_keys(changed, CLUSTER, "local").added == (here.key("key.2.gpg"),)


def test_nothing_is_deleted_while_keys_change_nor_comes_back_when_it_was(site: Site, new_key: KeyPair) -> None:
    """Both ways round, at the worst moment: as the new key file is written, and when SHA256SUMS has just gone."""
    backup_id = back_up(site)
    rebuild(site, site.local)
    changed, met = keyed(site, recipients=[new_key]), list[str]()

    def meet(other: Callable[[], object]) -> None:
        with pytest.raises(BusyError):
            other()
        met.append("busy")

    class Meeting(type(site.local)):  # type: ignore[misc]
        @contextlib.contextmanager
        def create(self, key: str) -> Iterator[Any]:
            meet(lambda: apply(site, plan(site, CLUSTER, "local").document()))
            with super().create(key) as sink:
                yield sink

        def delete(self, key: str) -> None:
            super().delete(key)
            if key.endswith(SUMS):
                meet(lambda: add_keys(keyed(site, recipients=[new_key]), CLUSTER, "local"))

    meeting = dataclasses.replace(changed, repositories={"local": Meeting(site.settings.paths.backups)})
    assert add_keys(meeting, CLUSTER, "local").added == (backup_id.key("key.2.gpg"),)
    old = back_up(site, 4001), back_up(site, 4000)  # of a year, one is kept
    rebuild(site, site.local)
    for one in (backup_id, *old):
        attempt = site.catalog.begin_verification(str(one), repository="local", owner="test", now=MOMENT)
        site.catalog.conclude(
            str(one), repository="local", attempt=attempt, verdict=Verdict.VERIFIED, reason="", now=MOMENT
        )
    [gone] = apply(meeting, plan(meeting, CLUSTER, "local").document()).backups
    assert met == ["busy", "busy"]
    assert list(site.local.list(BackupId.parse(gone).key(""))) == []
    [kept] = (one for one in old if str(one) != gone)
    done = add_keys(changed, CLUSTER, "local")
    assert (done.added, done.served) == ((kept.key("key.2.gpg"),), (str(backup_id),))


# --------------------------------------------------------------------------------------------- forged and damaged


def test_no_forged_or_damaged_key_file_hides_another(site: Site, new_key: KeyPair) -> None:
    backup_id = back_up(site)
    add_keys(keyed(site, recipients=[new_key]), CLUSTER, "local")
    mine, others = site, keyed(site, private_keys=[new_key])
    good = site.local.read(backup_id.key("key.2.gpg"))
    for forged in (b"rubbish", good[:-5], site.keyring.wrap(b"not it\n")):
        put(site.local, backup_id.key("key.3.gpg"), forged)
        assert opens(mine, backup_id)
    assert opens(others, backup_id)
    put(site.local, backup_id.key("key.1.gpg"), b"rubbish")
    assert opens(others, backup_id)
    with pytest.raises(DamagedError) as caught:
        opens(mine, backup_id)
    assert all(f"key.{number}.gpg" in str(caught.value.detail) for number in (1, 2, 3))
    site.local.delete(backup_id.key("key.1.gpg"))
    assert opens(others, backup_id)
    with pytest.raises(DamagedError, match="opens"):
        opens(mine, backup_id)


def test_our_own_fault_is_no_verdict(site: Site, new_key: KeyPair, signer: KeyPair) -> None:
    backup_id = back_up(site)
    put(site.local, backup_id.key("key.2.gpg"), b"rubbish")
    with pytest.raises(WrongKeyError) as caught:
        opens(keyed(site, private_keys=[new_key]), backup_id)
    assert "key.1.gpg" in str(caught.value.detail)
    assert "key.2.gpg" in str(caught.value.detail)
    with pytest.raises(UnfitError, match="passphrase is wrong"):
        opens(keyed(site, passphrase_file=signer.passphrase_file), backup_id)


def test_a_key_file_with_another_passphrase_does_not_pass_for_one_of_ours(
    site: Site, key: KeyPair, new_key: KeyPair
) -> None:
    backup_id = back_up(site)
    both = keyed(site, recipients=[new_key], private_keys=[key, new_key])
    put(site.local, backup_id.key("key.2.gpg"), both.keyring.wrap(b"not it\n"))
    assert add_keys(both, CLUSTER, "local").added == (backup_id.key("key.3.gpg"),)
    assert add_keys(both, CLUSTER, "local").added == ()
    assert opens(keyed(site, private_keys=[new_key]), backup_id)


# ---------------------------------------------------------------------------------------------------------- report


def test_the_report_says_what_each_key_opens(site: Site, key: KeyPair, new_key: KeyPair, tmp_path: Path) -> None:
    gone = make_key(tmp_path / "gone", "gone")
    lost, older, newer = back_up(keyed(site, recipients=[gone]), 9), back_up(site, 2), back_up(site, 1, Kind.BASE)
    seal(site, 1)
    changed = keyed(site, recipients=[new_key], escrow=[new_key])
    seal(changed, 2)
    last = back_up(changed)
    add_keys(changed, CLUSTER, "local", backup_id=str(newer))
    put(site.local, older.key("key.2.gpg"), b"rubbish")

    found = report_keys(changed, CLUSTER, "local")
    uses = {use.name: use for use in found.keys}
    [old], [new] = site.keyring.recipients(), changed.keyring.recipients()
    assert set(uses) == {old, new, *site.keyring.sealed_for(site.local.read(lost.key("key.1.gpg")))}
    assert (uses[new].roles, uses[old].roles) == ((Role.ESCROW,), (Role.PRIVATE,))
    assert dataclasses.astuple(uses[old].backups) == (2, 4, str(older), str(newer))
    assert dataclasses.astuple(uses[new].backups) == (2, 4, str(newer), str(last))
    assert (uses[old].wal.count, uses[new].wal.count, found.wal.count, found.wal.of) == (1, 1, 1, 2)
    assert found.backups == uses[old].backups
    assert found.lost == (str(lost), str(older))
    assert [problem.split(":")[0] for problem in found.problems] == [f"{older}/key.2.gpg"]


# ------------------------------------------------------------------------------------------------------ signatures


def test_a_signed_backup_is_taken_and_its_signature_comes_before_it_is_one(site: Site, signer: KeyPair) -> None:
    signed = signing(site, signer)
    written: list[str] = []

    class Watched(type(site.local)):  # type: ignore[misc]
        @contextlib.contextmanager
        def create(self, key: str) -> Iterator[Any]:
            written.append(key.rpartition("/")[2])
            with super().create(key) as sink:
                yield sink

    store = Watched(site.settings.paths.backups)
    backup_id = back_up(dataclasses.replace(signed, repositories={"local": store}))
    assert written[-3:] == [MANIFEST, SIGNATURE, SUMS]
    assert opens(signed, backup_id)
    assert SIGNATURE not in describe_copy(signed, site.local, backup_id).digests


def test_what_is_not_signed_by_us_is_refused(site: Site, signer: KeyPair, key: KeyPair, tmp_path: Path) -> None:
    signed = signing(site, signer)
    backup_id, other = back_up(signed, 1), back_up(signed)
    sums, good = site.local.read(backup_id.key(SUMS)), site.local.read(backup_id.key(SIGNATURE))
    stranger = make_key(tmp_path / "stranger", "signer", encrypts=False)
    swapped = site.local.read(other.key(SIGNATURE))
    for forged in (b"", good[:-1], swapped, stock_sign(stranger, sums), stock_sign(key, sums), None):
        site.local.delete(backup_id.key(SIGNATURE))
        if forged is not None:
            put(site.local, backup_id.key(SIGNATURE), forged)
        with pytest.raises(RefusedError, match="signature") as caught:
            describe_copy(signed, site.local, backup_id)
        assert caught.value.hint
    with pytest.raises(RefusedError, match="signature"):
        read_chain(signed, site.local, str(backup_id))
    assert describe_copy(site, site.local, backup_id)  # who does not ask for signatures
    put(site.local, backup_id.key(SIGNATURE), good)
    assert opens(signed, backup_id)
    with pytest.raises(RefusedError, match="signature"):
        describe_copy(signing(site, signer, revoke(signer)), site.local, backup_id)


def test_a_signed_backup_does_not_pass_for_another(site: Site, signer: KeyPair) -> None:
    """What was signed is the whole list, and the manifest on it names its backup."""
    signed = signing(site, signer)
    old = back_up(signed, 300)
    new = BackupId.at(CLUSTER, MOMENT, Kind.FULL)
    for info in list(site.local.list(old.key(""))):
        put(site.local, new.key(info.key.rpartition("/")[2]), site.local.read(info.key))
    with pytest.raises(RefusedError, match="contradict"):
        describe_copy(signed, site.local, new)


def test_a_signature_that_would_not_count_stops_the_capture_before_it_begins(
    site: Site, signer: KeyPair, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other", "other", encrypts=False)
    with pytest.raises(RefusedError, match="does not count"):
        back_up(signing(site, signer, other))
    with pytest.raises(UnfitError, match="cannot sign"):
        back_up(signing(site, make_key(tmp_path, "late", expires="1d", faked_time="20200101T000000", encrypts=False)))
    assert list(site.local.list("")) == []


def test_backups_from_before_are_vouched_for_once(site: Site, signer: KeyPair) -> None:
    signed = signing(site, signer)
    older, newer = back_up(site, 1), back_up(signed)
    put(site.local, newer.key(SIGNATURE), b"rubbish")
    with pytest.raises(RefusedError, match="there is no signature"):
        describe_copy(signed, site.local, older)
    before = contents(site.local)
    assert sign_backups(signed, CLUSTER, "local") == (older.key(SIGNATURE),)
    assert sign_backups(signed, CLUSTER, "local") == ()
    assert contents(site.local).items() - before.items() == {
        (older.key(SIGNATURE), site.local.read(older.key(SIGNATURE)))
    }
    assert opens(signed, older)
    with pytest.raises(RefusedError):  # a signature that is there stays, whatever it is worth
        describe_copy(signed, site.local, newer)
    back_up(site, 2)
    with pytest.raises(UnfitError, match="no signing key"):
        sign_backups(site, CLUSTER, "local")


def test_a_rebuilt_catalog_has_only_what_is_signed_by_us(site: Site, signer: KeyPair, tmp_path: Path) -> None:
    signed = signing(site, signer)
    older, good, unsigned, swapped, forged = (back_up(signed, age) for age in (5, 4, 3, 2, 1))
    stranger = make_key(tmp_path / "stranger", "signer", encrypts=False)
    for one in (older, unsigned):
        site.local.delete(one.key(SIGNATURE))
    put(site.local, swapped.key(SIGNATURE), site.local.read(good.key(SIGNATURE)))
    put(site.local, forged.key(SIGNATURE), stock_sign(stranger, site.local.read(forged.key(SUMS))))

    done = rebuild(signed, site.local)
    assert done.recorded == (str(good),)
    assert [backup.id for backup in site.catalog.backups()] == [str(good)]
    none, bad = "there is no signature", "the signature does not count"
    reasons = {older: none, unsigned: none, swapped: bad, forged: bad}
    for error, (one, reason) in zip(done.refused, reasons.items(), strict=True):
        assert error.message == f"{one} is not recorded"
        assert reason in str(error.detail)
        assert "pgbackup keys sign" in str(error.hint)

    sign_backups(signed, CLUSTER, "local", backup_id=str(older))
    assert rebuild(signed, site.local).recorded == (str(older), str(good))
    everything = rebuild(site, site.local)  # who does not ask for signatures
    assert (len(everything.recorded), everything.refused) == (5, ())


def test_a_rebuilt_catalog_has_nothing_that_is_damaged_or_passes_for_another(site: Site) -> None:
    good, damaged, renamed = back_up(site, 2), back_up(site, 1), BackupId.at(CLUSTER, MOMENT, Kind.FULL)
    put(site.local, damaged.key(MANIFEST), b"{}")
    for info in list(site.local.list(good.key(""))):
        put(site.local, renamed.key(info.key.rpartition("/")[2]), site.local.read(info.key))
    done = rebuild(site, site.local)
    assert done.recorded == (str(good),)
    assert [error.detail for error in done.refused] == [
        f"{damaged}/{MANIFEST} does not match its checksum",
        f"manifest and checksums of {renamed} contradict each other",
    ]


# ---------------------------------------------------------------------------------------------- the weekly check


def failed(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.name for finding in findings if not finding.ok]


def test_the_oldest_of_everything_is_opened(site: Site, new_key: KeyPair, signer: KeyPair) -> None:
    seal(site, 1)
    for age, kind in ((3, Kind.FULL), (2, Kind.BASE)):
        back_up(site, age, kind)
    changed = keyed(site, recipients=[new_key], private_keys=[new_key])
    for kind in (Kind.FULL, Kind.BASE):
        back_up(changed, 0, kind)
    seal(changed, 2)
    findings = check_keys(site, CLUSTER)
    assert failed(findings) == []
    assert [finding.name.removeprefix("today's keys open the oldest ") for finding in findings] == [
        "full backup in local",
        "base backup in local",
        "WAL in local",
    ]
    found = check_keys(changed, CLUSTER)
    assert len(failed(found)) == 3
    assert all(finding.hint for finding in found)
    add_keys(keyed(site, recipients=[new_key]), CLUSTER, "local")
    assert failed(check_keys(changed, CLUSTER)) == ["today's keys open the oldest WAL in local"]
    assert len(failed(check_keys(signing(site, signer), CLUSTER))) == 2


def test_a_repository_that_is_down_is_told_and_hides_no_other(site: Site) -> None:
    back_up(site)

    class Down(type(site.local)):  # type: ignore[misc]
        def list(self, prefix: str) -> Iterator[Any]:
            raise UnavailableError("repository far does not answer", detail=prefix)

    far = Down(site.settings.paths.backups, name="far")
    findings = check_keys(dataclasses.replace(site, repositories={"far": far, **site.repositories}), CLUSTER)
    assert [(finding.name, finding.ok) for finding in findings] == [
        ("far can be listed", False),
        ("today's keys open the oldest full backup in local", True),
    ]


# ---------------------------------------------------------------------------------------------------------- expiry


def test_a_key_that_expires_in_a_few_days_raises_an_alert(site: Site, tmp_path: Path, signer: KeyPair) -> None:
    def finding(some: Site) -> Finding:
        return next(one for one in watch(some, CLUSTER) if one.name == names.KEYS)

    assert finding(site).ok
    short = make_key(tmp_path, "short", expires="5d")
    for one in (keyed(site, recipients=[short]), keyed(site, private_keys=[short])):
        found = finding(one)
        assert not found.ok
        assert str(short.public.parent) in found.detail
        assert f"{datetime.now(UTC) + 5 * DAY:%Y-%m}" in found.detail
        assert found.hint
        assert finding(keyed(one, warn_before=2 * DAY)).ok
    brief = make_key(tmp_path, "brief", expires="5d", encrypts=False)
    assert "signing key" in finding(signing(site, brief, signer)).detail
    assert "verify key" in finding(signing(site, signer, brief)).detail


def test_an_expired_key_alerts_where_it_is_needed() -> None:
    def key(role: Role, days: int | None, name: str = "F") -> Key:
        return Key(role, Path(name), name, None if days is None else MOMENT + days * DAY)

    def ok(*keys: Key) -> bool:
        return keys_last(keys, MOMENT, 30 * DAY)[0]

    for role in Role:
        assert ok(key(role, 31), key(role, None))
        assert not ok(key(role, 30))
    for role in (Role.RECIPIENT, Role.ESCROW, Role.SIGNING):
        assert not ok(key(role, -1))
    for role in (Role.PRIVATE, Role.VERIFY):
        assert ok(key(role, -1))  # kept for what is old
        assert not ok(key(role, -1), key(Role.SIGNING, 300))  # its file was not extended with the other
        assert ok(key(role, -1, "old"), key(Role.SIGNING, 300))
    assert keys_last([], MOMENT, DAY)[:2] == (True, "none expires")

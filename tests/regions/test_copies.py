"""Copies: the same bytes in each repository, what comes later too; what a repository lacks is known."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.copies import FAR, contents, damage, keys, put, seal, sidecars, state
from tests.support.faulty import FaultyWay
from tests.support.s3 import Region
from tests.support.source import Source

from pgbackup.capture import capture_full
from pgbackup.copy import copy_backup, copy_missing, copy_wal, missing_copies
from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.ids import SIGNATURE, SUMS
from pgbackup.domain.model import CopyState
from pgbackup.domain.ports import Site
from pgbackup.restore.fetch import DamagedError
from pgbackup.restore.rebuild import rebuild
from pgbackup.store import LocalStore
from pgbackup.verify import pending, verify
from pgbackup.watch import names, watch


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source, region: Region, way: FaultyWay, tmp_path: Path) -> Site:
    """One region behind a way on which things go wrong, one that is a folder."""
    site = site_for(library)
    far = region.store(tmp_path.name, name=FAR, endpoint=way.endpoint)
    others = {FAR: far, "cellar": LocalStore(tmp_path / "cellar", name="cellar")}
    return dataclasses.replace(site, repositories={**site.repositories, **others})


def test_a_copy_is_the_same_backup_and_proves_itself(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    assert [backup.id for backup in missing_copies(site, "streamflix", FAR)] == [backup_id]
    for repository in (FAR, "cellar"):
        copied = copy_backup(site, backup_id, repository)
        far = site.repositories[repository]
        assert copied.bytes == sum(found.bytes for found in site.local.list("full/"))
        assert [(key, far.read(key)) for key in keys(far)] == [
            (key, site.local.read(key)) for key in keys(site.local, "full/")
        ]
        assert state(site, backup_id, repository) is CopyState.STORED
        assert missing_copies(site, "streamflix", repository) == ()
        assert copy_backup(site, backup_id, repository).bytes == 0
    assert verify(site, backup_id, FAR).verdict == "verified"
    assert state(site, backup_id, FAR) is CopyState.VERIFIED


def test_the_catalog_is_rebuilt_from_one_region_alone(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_missing(site, "streamflix", FAR)
    before = site.catalog.backup(backup_id)
    empty = {FAR: site.repositories[FAR], "local": LocalStore(site.settings.paths.backups / "new")}
    with site.catalog._session() as connection:
        connection.execute("TRUNCATE backup_log CASCADE")
    alone = dataclasses.replace(site, repositories=empty)
    assert rebuild(alone, alone.repositories[FAR]).recorded == (backup_id,)
    after = alone.catalog.backup(backup_id)
    assert before is not None
    assert after is not None
    assert (after.backup_time, after.bytes, [copy.repository for copy in after.copies]) == (
        before.backup_time,
        before.bytes,
        [FAR],
    )


def test_what_was_proved_here_counts_in_a_region_alone(site: Site) -> None:
    """The verdicts go along: a catalog that was rebuilt from there knows what was proved, of the capture and of it."""
    backup_id = capture_full(site, "streamflix").id
    assert verify(site, backup_id, "local").verdict == "verified"
    copy_missing(site, "streamflix", "cellar")
    with site.catalog._session() as connection:
        connection.execute("TRUNCATE backup_log CASCADE")
    alone = {"cellar": site.repositories["cellar"], "local": LocalStore(site.settings.paths.backups / "new")}
    site = dataclasses.replace(site, repositories=alone)
    assert rebuild(site, site.repositories["cellar"]).recorded == (backup_id,)
    assert [backup.state for backup in site.catalog.backups()] == ["verified"]
    assert state(site, backup_id, "cellar") is CopyState.STORED


# ------------------------------------------------------------------------------- what SHA256SUMS does not list


def test_signature_keys_and_verdicts_are_copied_with_a_backup_and_after_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_id = capture_full(site, "streamflix").id
    first, later = [SIGNATURE, "attest/a.json"], ["attest/b.json", "attest/c/d.json", "key.2.gpg"]
    for name in first:
        put(site.local, f"full/{backup_id}/{name}", name.encode())
    written: list[str] = []
    far = site.repositories[FAR]
    create = far.create
    monkeypatch.setattr(far, "create", lambda key: written.append(key) or create(key))
    copy_backup(site, backup_id, FAR)
    assert written[-1].endswith(SUMS)
    assert contents(far) == contents(site.local, "full/")

    for name in later:
        put(site.local, f"full/{backup_id}/{name}", name.encode())
    put(far, f"full/{backup_id}/attest/b.json", b"of its own")
    put(far, f"full/{backup_id}/attest/e.json", b"of its own")
    written.clear()
    assert copy_missing(site, "streamflix", FAR) == ()
    assert [key.removeprefix(f"full/{backup_id}/") for key in written] == later[1:]
    assert far.read(f"full/{backup_id}/attest/b.json") == b"of its own"
    written.clear()
    assert copy_missing(site, "streamflix", FAR) == ()
    assert written == []


def test_what_comes_later_goes_only_to_where_the_backup_is(site: Site) -> None:
    """What rotation is taking away, here or there, is left alone."""
    backup_id = capture_full(site, "streamflix").id
    far, cellar = site.repositories[FAR], site.repositories["cellar"]
    for one in (far, cellar):
        copy_backup(site, backup_id, one.name)
    put(site.local, f"full/{backup_id}/key.2.gpg", b"late")
    site.catalog.expire(backup_id, repository=FAR)
    far.delete(f"full/{backup_id}/{SUMS}")
    before = keys(far)
    copy_missing(site, "streamflix", FAR)
    site.local.delete(f"full/{backup_id}/{SUMS}")
    copy_missing(site, "streamflix", "cellar")
    assert keys(far) == before
    assert f"full/{backup_id}/key.2.gpg" not in keys(cellar)


def test_any_number_of_backups_takes_one_listing_of_each_kind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    capture_full(site, "streamflix")
    copy_missing(site, "streamflix", FAR)
    asked: list[Any] = []
    client = site.repositories[FAR]._client
    client.meta.events.register("before-call.s3", lambda model, **_given: asked.append(model.name))
    copy_missing(site, "streamflix", FAR)
    assert asked == ["ListObjectsV2"] * 3


# ------------------------------------------------------------------------------------------- lost here, had there


@pytest.mark.parametrize("loss", ["changed", "lost", "gone"])
def test_what_is_damaged_here_stays_there_and_comes_back(site: Site, loss: str) -> None:
    backup_id = capture_full(site, "streamflix").id
    far, folder = site.repositories[FAR], site.settings.paths.backups / "full" / backup_id
    copy_backup(site, backup_id, FAR)
    before, path = contents(far), next(folder.glob("*.dump.gpg"))
    if loss == "changed":
        damage(path)
    elif loss == "lost":
        path.unlink()
    else:
        site.local.clean(f"full/{backup_id}")
    with site.catalog._session() as connection:  # as when it was rebuilt from what is here
        connection.execute("DELETE FROM backup_copy WHERE repository = %s", (FAR,))
    with pytest.raises(RefusedError):
        copy_missing(site, "streamflix", FAR)
    assert contents(far) == before
    copied = copy_backup(site, backup_id, "local", source=FAR)
    assert contents(site.local, "full/") == before
    assert 0 < copied.bytes <= sum(found.bytes for found in far.list(""))
    assert [one.backup_id for one in copy_missing(site, "streamflix", FAR)] == [backup_id]


def test_what_is_damaged_on_both_sides_is_left_for_study(site: Site) -> None:
    """Another file each: together they are whole, so nothing of either may go."""
    backup_id = capture_full(site, "streamflix").id
    cellar = site.repositories["cellar"]
    copy_backup(site, backup_id, "cellar")
    damage(site.settings.paths.backups / "full" / backup_id / "globals.sql.gpg")
    damage(cellar.root / "full" / backup_id / "library.dump.gpg")
    before = contents(site.local, "full/"), contents(cellar)
    for source, target in (("local", "cellar"), ("cellar", "local")):
        with pytest.raises(DamagedError):
            copy_backup(site, backup_id, target, source=source)
    assert (contents(site.local, "full/"), contents(cellar)) == before


def test_one_copy_of_each_backup_is_proved_and_then_one_more_of_each_repository(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_missing(site, "streamflix", FAR)
    copy_missing(site, "streamflix", "cellar")
    assert pending(site, "streamflix") == ((backup_id, "local"),)
    verify(site, backup_id, "local")
    assert sorted(pending(site, "streamflix")) == [(backup_id, name) for name in ("cellar", FAR, "local")]


def test_each_region_is_proved_in_turn_and_what_is_damaged_there_is_copied_again(site: Site) -> None:
    ids = {capture_full(site, "streamflix").id for _ in range(2)}
    for backup_id in ids:
        verify(site, backup_id, "local")
    copy_missing(site, "streamflix", FAR)

    def next_one() -> str:
        [backup_id] = [one for one, repository in pending(site, "streamflix") if repository == FAR]
        return backup_id

    first = next_one()
    far, key = site.repositories[FAR], f"full/{first}/library.dump.gpg"
    sound = far.read(key)
    far.delete(key)
    put(far, key, sound[:-1] + bytes([sound[-1] ^ 1]))
    assert verify(site, first, FAR).verdict == "rejected"
    assert state(site, first, FAR) is CopyState.DAMAGED
    assert {backup.state for backup in site.catalog.backups()} == {"verified"}, "the original is sound"
    assert next_one() != first, "it is copied before it is tried again, and keeps no other from its turn"
    assert [copied.backup_id for copied in copy_missing(site, "streamflix", FAR)] == [first]
    assert far.read(key) == sound
    turns = set()
    for _ in ids:
        turns.add(next_one())
        assert verify(site, next_one(), FAR).verdict == "verified"
    assert turns == ids


def test_what_the_local_repository_lost_comes_from_another_one(site: Site, tmp_path: Path) -> None:
    """Whether the catalog knows of the loss or not; a backup that is nowhere else stops no other."""
    known, unknown, nowhere, here = (capture_full(site, "streamflix").id for _ in range(4))
    for backup_id in (known, unknown):
        copy_backup(site, backup_id, "cellar")
    for backup_id in (known, unknown, nowhere):
        site.local.clean(f"full/{backup_id}")
    with site.catalog._session() as connection:
        connection.execute("DELETE FROM backup_copy WHERE (backup_id, repository) = (%s, 'local')", (known,))
    with pytest.raises(RefusedError, match=f"local does not hold full/{nowhere}"):
        copy_missing(site, "streamflix", FAR)
    assert {backup_id for backup_id in (known, unknown, here) if state(site, backup_id, FAR)} == {known, unknown, here}
    far, cellar = site.repositories[FAR], site.repositories["cellar"]
    for backup_id in (known, unknown):
        assert contents(far, f"full/{backup_id}") == contents(cellar, f"full/{backup_id}")


def test_a_bad_copy_judged_first_rejects_no_backup_whose_original_nobody_judged(site: Site) -> None:
    backup_id = capture_full(site, "streamflix").id
    copy_backup(site, backup_id, "cellar")
    site.repositories["cellar"].delete(f"full/{backup_id}/globals.sql.gpg")
    assert verify(site, backup_id, "cellar").verdict == "rejected"
    assert [backup.state for backup in site.catalog.backups()] == ["captured"]
    assert verify(site, backup_id, "local").verdict == "verified"
    assert [backup.state for backup in site.catalog.backups()] == ["verified"]


# --------------------------------------------------------------------------------------------------- the watch


def test_the_watch_tells_what_is_not_off_site(site: Site, way: FaultyWay) -> None:
    capture_full(site, "streamflix")
    seal(site.local, 1)

    def failing(later: timedelta) -> set[str]:
        at = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + later)
        return {one.name for one in watch(at, "streamflix") if not one.ok} & everything

    everything = {named(name) for named in (names.wal_in, names.backups_in) for name in (FAR, "cellar")}
    soon, late = timedelta(0), timedelta(hours=7)
    assert failing(soon) == {names.wal_in(FAR), names.wal_in("cellar")}
    assert failing(late) == everything
    way.refusing = True
    for repository in (FAR, "cellar"):
        with contextlib.suppress(UnavailableError):
            copy_wal(site, "streamflix", repository)
        with contextlib.suppress(UnavailableError):
            copy_missing(site, "streamflix", repository)
    assert failing(soon) == {names.wal_in(FAR)}
    assert failing(late) == everything - {names.backups_in("cellar")}
    way.heal()
    copy_wal(site, "streamflix", FAR)
    copy_missing(site, "streamflix", FAR)
    assert failing(soon) == set()
    assert failing(late) == {names.wal_in(FAR), names.wal_in("cellar")}


# --------------------------------------------------------------------------------------------------------- WAL


def test_wal_is_copied_oldest_first_and_once(site: Site) -> None:
    for number in range(1, 6):
        seal(site.local, number)
    before = datetime.now(UTC)
    assert copy_wal(site, "streamflix", FAR) == 5
    far = site.repositories[FAR]
    assert [(key, far.read(key)) for key in keys(far)] == [
        (key, site.local.read(key)) for key in keys(site.local, "wal/")
    ]
    assert copy_wal(site, "streamflix", FAR) == 0
    seal(site.local, 6)
    assert copy_wal(site, "streamflix", FAR) == 1
    (reached,) = site.catalog.wal_copies("streamflix")
    assert (reached.repository, reached.missing, reached.error) == (FAR, 0, "")
    assert reached.whole_at is not None
    assert reached.whole_at > before


def test_only_the_first_look_of_a_day_reads_a_region_from_its_beginning(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is listed from where it was whole: not at all while nothing new is here."""
    morning = datetime.now(UTC).replace(hour=3)
    far, listed = site.repositories[FAR], list[str]()
    list_all = far.list
    monkeypatch.setattr(far, "list", lambda prefix, after="": listed.append(after) or list_all(prefix, after=after))

    def look(at: datetime) -> int:
        listed.clear()
        return copy_wal(dataclasses.replace(site, clock=lambda: at), "streamflix", FAR)

    first = [seal(site.local, number) for number in range(1, 4)]
    for one in first:
        _write_at(site, one.sidecar_key, morning - timedelta(days=1))
        _write_at(site, one.data_key, morning - timedelta(days=1))
    assert look(morning) == 3
    assert listed[0] == ""
    assert look(morning + timedelta(minutes=5)) == 0
    assert listed == []
    for number, minutes in ((5, 7), (4, 8)):  # sealed side by side, the older one later
        sealed = seal(site.local, number)
        _write_at(site, sealed.sidecar_key, morning + timedelta(minutes=minutes))
        _write_at(site, sealed.data_key, morning + timedelta(minutes=minutes))
        assert look(morning + timedelta(minutes=minutes)) == 1
        assert listed[0].startswith("wal/streamflix/7/00000001/00000001000000000000000")
        assert listed[0] > first[-1].sidecar_key
    assert contents(far) == contents(site.local, "wal/")


@pytest.mark.parametrize("part", ["sidecar_key", "data_key"])
def test_what_a_region_lost_of_the_wal_is_copied_again_the_next_day(site: Site, part: str) -> None:
    sealed = [seal(site.local, number) for number in range(1, 4)]
    copy_wal(site, "streamflix", FAR)
    site.repositories[FAR].delete(getattr(sealed[1], part))
    tomorrow = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + timedelta(days=1))
    assert copy_wal(tomorrow, "streamflix", FAR) == 1
    assert contents(site.repositories[FAR]) == contents(site.local, "wal/")


def test_damaged_wal_does_not_replace_what_is_there(site: Site) -> None:
    sealed = seal(site.local, 1)
    far = site.repositories["cellar"]
    good = site.local.read(sealed.data_key)
    put(far, sealed.data_key, good)
    damage(site.settings.paths.backups / sealed.data_key)
    with pytest.raises(DamagedError):
        copy_wal(site, "streamflix", "cellar")
    assert far.read(sealed.data_key) == good


def test_a_damaged_segment_holds_no_other_back(site: Site) -> None:
    sealed = [seal(site.local, number) for number in range(1, 5)]
    path = site.settings.paths.backups / sealed[1].data_key
    path.chmod(0o600)
    path.write_bytes(b"other")
    with pytest.raises(RefusedError, match="checksum"):
        copy_wal(site, "streamflix", FAR)
    assert sidecars(site.repositories[FAR]) == sorted(sealed[number].sidecar_key for number in (0, 2, 3))
    assert site.catalog.wal_copies("streamflix")[0].missing == 1


def _write_at(site: Site, key: str, moment: datetime) -> None:
    path = site.settings.paths.backups / key
    os.utime(path, (moment.timestamp(), moment.timestamp()))

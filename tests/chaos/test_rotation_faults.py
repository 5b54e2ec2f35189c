"""Rotation of a region: killed, down, locked by the storage; what it could not delete goes when it may."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.support import aged
from tests.support.faulty import FaultyWay
from tests.support.s3 import Region
from tests.support.source import Source

from pgbackup.domain.errors import PgBackupError, UnavailableError
from pgbackup.domain.model import Kind, State
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import S3, Repository
from pgbackup.restore.holds import put_hold, release_hold
from pgbackup.restore.rebuild import committed
from pgbackup.rotate import apply, plan
from pgbackup.store import S3Store

FAR = "eu-central-1"
DAY = timedelta(days=1)
BOTH = ("local", FAR)
_numbers = itertools.count()


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture
def way(region: Region) -> Iterator[FaultyWay]:
    own = FaultyWay(region.port + 3)
    yield own
    own.close()


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source, region: Region, way: FaultyWay) -> Site:
    site = site_for(library, encrypted=False)
    far = region.store(f"rotation-{next(_numbers)}", name=FAR, endpoint=way.endpoint, timeout="1s")
    return dataclasses.replace(site, repositories={**site.repositories, FAR: far})


def ago(days: float) -> datetime:
    return datetime.now(UTC) - days * DAY


def ids(site: Site, repository: str) -> set[str]:
    return {str(one) for one in committed(site.repositories[repository])}


class Dying(S3Store):
    """A region whose client is killed before or after its n-th deletion."""

    left = 0
    after = False

    def delete(self, key: str) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        super().delete(key)
        if self.left == 0:
            raise Killed


def test_a_rotation_of_a_region_that_is_killed_is_finished_by_the_next_one(site: Site) -> None:
    far = site.repositories[FAR]
    assert isinstance(far, S3Store)
    kept = {aged.stored(site, ago(days), Kind.BASE, day=100 - days, repositories=BOTH) for days in (1, 20)}
    aged.archived(far, 100, ago(1))
    wanted = [one.key for one in far.list("")]
    dying = Dying(far._settings, far._connect, name=FAR, clock=far._clock)
    killed = dataclasses.replace(site, repositories={**site.repositories, FAR: dying})
    for dying.after, step in ((False, 1), (True, 1), (True, 2), (True, 3), (True, 4)):
        old = aged.stored(site, ago(400 + step), Kind.BASE, day=step, repositories=(FAR,))
        shown = plan(site, "streamflix", FAR).document()
        assert [one["id"] for one in shown["backups"] if not one["rules"]] == [old]
        dying.left = step
        with pytest.raises(Killed):
            apply(killed, shown)
        applied = apply(site, plan(site, "streamflix", FAR).document())
        assert not applied.failures
        assert [one.key for one in far.list("")] == wanted
        known = site.catalog.backup(old)
        assert known is not None
        assert known.state is State.EXPIRED
        with site.catalog._session() as connection:
            connection.execute("DELETE FROM backup_log WHERE id = %s", (old,))
    assert ids(site, FAR) == kept


def test_a_region_that_goes_down_is_taken_up_again_and_hinders_no_other(site: Site, way: FaultyWay) -> None:
    backups = [aged.stored(site, ago(days), repositories=BOTH) for days in (403, 402, 401, 1)]
    shown = {one: plan(site, "streamflix", one).document() for one in BOTH}
    far = site.repositories[FAR]
    assert isinstance(far, S3Store)
    delete = far.delete

    def refuse(key: str) -> None:
        delete(key)
        way.refusing = True

    far.delete = refuse  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        apply(site, shown[FAR])
    far.delete = delete  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        plan(site, "streamflix", FAR)
    assert set(apply(site, shown["local"]).backups) == set(backups[1:3])
    way.heal()
    assert not apply(site, plan(site, "streamflix", FAR).document()).failures
    assert ids(site, FAR) == ids(site, "local") == {backups[0], backups[3]}
    assert {one.state for one in site.catalog.backups() if one.id in backups[1:3]} == {State.EXPIRED}


def test_rights_that_were_revoked_are_told_and_nothing_is_lost(site: Site, way: FaultyWay) -> None:
    backups = [aged.stored(site, ago(days), repositories=BOTH) for days in (402, 401, 1)]
    shown = plan(site, "streamflix", FAR).document()
    far = site.repositories[FAR]
    assert isinstance(far, S3Store)
    delete = far.delete

    def denied(key: str) -> None:
        way.answer, way.answers = 403, 1
        delete(key)

    far.delete = denied  # type: ignore[method-assign]
    applied = apply(site, shown)
    assert applied.backups == ()
    assert "can be deleted when that has ended" in applied.failures[0]
    way.heal()
    far.delete = delete  # type: ignore[method-assign]
    assert ids(site, FAR) == set(backups)
    assert apply(site, plan(site, "streamflix", FAR).document()).backups == (backups[1],)


# ---------------------------------------------------------------------------------------------- locked by the storage


@pytest.fixture
def locked(site: Site, region: Region) -> Callable[..., Site]:
    """Make a site whose region is a bucket with object lock."""

    def make(**lock: object) -> Site:
        bucket = f"locked-{os.getpid()}-{next(_numbers)}"
        region.make_bucket(bucket, ObjectLockEnabledForBucket=True)
        far = region.store(bucket=bucket, name=FAR, lock={"mode": "governance", **lock})
        far._connect = region.admin
        repository = Repository(s3=S3(bucket=bucket, lock={"mode": "governance", **lock}))
        settings = site.settings.model_copy(update={"repositories": {FAR: repository}})
        return dataclasses.replace(site, settings=settings, repositories={**site.repositories, FAR: far})

    return make


def test_what_the_storage_keeps_for_a_time_goes_when_that_is_over(locked: Callable[..., Site]) -> None:
    site = locked(retain="6s")
    backups = [aged.stored(site, ago(days), repositories=BOTH) for days in (402, 401, 1)]
    shown = plan(site, "streamflix", FAR)
    assert shown.going == ()
    assert "locked by the storage until" in {one.backup.id: one.rules[0] for one in shown.fates}[backups[1]]
    believing = dataclasses.replace(site, settings=site.settings.model_copy(update={"repositories": {}}))
    applied = apply(believing, plan(believing, "streamflix", FAR).document())
    assert (applied.backups, len(applied.failures)) == ((), 1)
    assert ids(site, FAR) == set(backups)
    deadline = time.monotonic() + 60
    while not (gone := apply(site, _newer(site)).backups):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert gone == (backups[1],)
    assert not [one for one in site.repositories[FAR].list("full/") if backups[1] in one.key]


def _newer(site: Site) -> dict[str, object]:
    """Plan when something newer has come: time is what the repository has seen."""
    aged.put(site.repositories[FAR], f"wal/streamflix/7/00000001/{time.time_ns()}", b"x")
    return plan(site, "streamflix", FAR).document()


def test_a_hold_is_a_legal_hold_where_the_storage_can(locked: Callable[..., Site]) -> None:
    site = locked()
    backups = [aged.stored(site, ago(days), repositories=BOTH) for days in (403, 402, 401, 1)]
    far = site.repositories[FAR]
    first = put_hold(site, backups[1], reason="auditor", expires_at=None)
    second = put_hold(site, backups[1], reason="court", expires_at=None)
    put_hold(site, backups[2], reason="briefly", expires_at=datetime.now(UTC) + timedelta(hours=1))
    data = [next(one.key for one in far.list("full/") if one.key.endswith(f"{name}/d.dump")) for name in backups[1:3]]

    def kept(key: str) -> bool:
        try:
            far.delete(key)
        except PgBackupError:
            return True
        return False

    assert all(map(kept, data))
    release_hold(site, first)
    assert kept(data[0]), "the other one still stands"
    release_hold(site, second)
    later = dataclasses.replace(site, clock=lambda: datetime.now(UTC) + DAY)
    aged.put(far, f"wal/streamflix/7/00000001/{time.time_ns()}", b"x")
    assert apply(site, plan(site, "streamflix", FAR).document()).backups == (backups[1],)
    assert kept(data[1])
    assert not plan(later, "streamflix", FAR).going, "only a repository that has seen so much time lets a hold expire"
    shown = plan(site, "streamflix", FAR)
    assert [one.id for one in shown.going] == []

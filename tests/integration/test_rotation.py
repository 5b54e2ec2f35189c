"""Rotation of a real repository and a real catalog: killed at each step, held, refused; what is left recovers."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.manifests import manifest
from tests.support.source import Source

from pgbackup.catalog.rebuild import committed
from pgbackup.domain.attestation import Attestation, seal
from pgbackup.domain.errors import BusyError, RefusedError, UnfitError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.manifest import File
from pgbackup.domain.model import CopyState, Kind, State, Verdict, Verification
from pgbackup.domain.ports import Site, Store
from pgbackup.domain.sums import format_sums
from pgbackup.domain.wal import Sealed, Segment
from pgbackup.recover.dumps import choose_dump
from pgbackup.restore.archive import list_archive
from pgbackup.restore.holds import holds_of, leased, put_hold, release_hold
from pgbackup.rotate import apply, plan
from pgbackup.store import LocalStore

NOW = datetime(2026, 3, 20, 7, tzinfo=UTC)
DAY = timedelta(days=1)
SIZE = 1 << 20
DATA = b"x" * 1000


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source) -> Site:
    return dataclasses.replace(site_for(library, encrypted=False), clock=lambda: NOW)


def put(store: Store, key: str, data: bytes) -> None:
    with store.create(key) as sink:
        sink.write(data)


def stored(
    site: Site,
    moment: datetime,
    kind: Kind = Kind.FULL,
    verdict: Verdict | None = Verdict.VERIFIED,
    parent: str | None = None,
) -> str:
    backup_id = BackupId.at("streamflix", moment, kind)
    name = "d.dump" if kind is Kind.FULL else "base.tar.zst"
    digest = sha256(DATA).hexdigest()
    file = File(name=name, stored_bytes=1000, stored_sha256=digest, plain_bytes=1000, plain_sha256=digest)
    changes: dict[str, object] = {}
    if kind is not Kind.FULL:
        day = (moment - NOW).days + 100
        positions = [f"0/{day * SIZE + more:X}" for more in (0, 10, 20)]
        changes = dict(zip(("start_lsn", "stop_lsn", "end_lsn"), positions, strict=True))
        changes |= {"method": "block" if kind is Kind.INCREMENTAL else None, "parent": parent}
    made = manifest(moment=moment, id=str(backup_id), kind=kind, files=(file,), encrypted=False, **changes)
    database = made.databases[0].model_copy(update={"name": "app", "file": name if kind is Kind.FULL else None})
    made = made.model_copy(update={"databases": (database,)})
    put(site.local, backup_id.key(name), DATA)
    put(site.local, backup_id.key(MANIFEST), made.to_json())
    text = format_sums({name: digest, MANIFEST: sha256(made.to_json()).hexdigest()})
    put(site.local, backup_id.key(SUMS), text)
    verifications = []
    if verdict:
        verifications = [Verification(made.id, "local", 1, moment, moment, verdict)]
        put(
            site.local,
            backup_id.key(seal(Attestation.of(verifications[0]))[0]),
            seal(Attestation.of(verifications[0]))[1],
        )
    site.catalog.register(made, repository="local", copy=CopyState.STORED, verifications=verifications, now=moment)
    return made.id


def archived(site: Site, days: int) -> Segment:
    """The WAL of one day, ``days`` ago; its data has another key than its description."""
    segment = Segment(1, 100 - days, SIZE)
    sealed = Sealed(
        cluster="streamflix",
        name=segment.name,
        system_identifier="7",
        timeline=1,
        segment_size=SIZE,
        plain_bytes=SIZE,
        plain_sha256=sha256(segment.name.encode()).hexdigest(),
        stored_bytes=4,
        stored_sha256="b" * 64,
        encrypted=False,
        sealed_at=NOW - days * DAY,
    )
    put(site.local, sealed.data_key, b"data")
    put(site.local, sealed.sidecar_key, sealed.to_json())
    moment = (NOW - (days - 1) * DAY).timestamp()
    for key in (sealed.data_key, sealed.sidecar_key):
        os.utime(site.settings.paths.backups / key, (moment, moment))
    return segment


def lived(site: Site) -> list[str]:
    """Fifty days of WAL; every fifth a dump and a base."""
    ids = []
    for days in range(50, 0, -1):
        archived(site, days)
        if days % 5 == 1:
            moment = NOW - days * DAY - timedelta(hours=5)
            ids += [stored(site, moment), stored(site, moment, Kind.BASE)]
    return ids


def left(site: Site) -> set[str]:
    return {str(one) for one in committed(site.local)}


def everything(site: Site) -> list[str]:
    return [one.key for prefix in ("full/", "base/", "incremental/", "wal/") for one in site.local.list(prefix)]


def test_what_no_rule_keeps_goes_and_nothing_else(site: Site) -> None:
    ids = lived(site)
    shown = plan(site, "streamflix", "local")
    before = sum(one.bytes for prefix in ("full/", "base/", "wal/") for one in site.local.list(prefix))
    applied = apply(site, shown.document())
    after = sum(one.bytes for prefix in ("full/", "base/", "wal/") for one in site.local.list(prefix))
    assert before - after == applied.bytes == shown.bytes > 0
    assert not applied.failures
    assert left(site) == {fate.backup.id for fate in shown.fates if fate.rules} == set(ids) - set(applied.backups)
    states = {one.id: one.state for one in site.catalog.backups("streamflix")}
    assert {name for name, state in states.items() if state is State.EXPIRED} == set(applied.backups)
    listing = list_archive(site.local, "streamflix", "7")
    assert len(listing.stretches) == 1
    oldest = min(one.physical.start for one in (f.backup for f in shown.fates if f.rules) if one.physical)
    assert listing.stretches[0].start == oldest
    again = plan(site, "streamflix", "local")
    assert (again.going, again.remains, again.bytes, again.problems) == ((), (), 0, ())


class Dying(LocalStore):
    """A repository whose process is killed at its n-th deletion, before or after it."""

    def __init__(self, root: Path, left: int, *, after: bool) -> None:
        super().__init__(root)
        self._left = left
        self._after = after

    def delete(self, key: str) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        super().delete(key)
        if self._left == 0:
            raise Killed

    def clean(self, prefix: str) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        super().clean(prefix)
        if self._left == 0:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_each_step_it_is_finished_by_the_next_one(site: Site, after: bool) -> None:
    root = site.settings.paths.backups
    stored(site, NOW - DAY)
    for days in (1, 20):
        stored(site, NOW - days * DAY, Kind.BASE)
    archived(site, 1)
    wanted = sorted(everything(site))
    for step in range(1, 12):
        old = stored(site, NOW - 45 * DAY - timedelta(seconds=step), Kind.BASE)
        archived(site, 60)
        dying = dataclasses.replace(site, repositories={"local": Dying(root, step, after=after)})
        shown = plan(site, "streamflix", "local").document()
        ended = False
        try:
            apply(dying, shown)
            ended = True
        except Killed:
            for backup_id in left(site):  # whole, each of them
                assert all(
                    (root / BackupId.parse(backup_id).key(name)).exists()
                    for name in ("base.tar.zst", MANIFEST)
                    if backup_id.endswith("base")
                )
        apply(site, plan(site, "streamflix", "local").document())
        assert sorted(everything(site)) == wanted
        known = site.catalog.backup(old)
        assert known is not None
        assert known.state is State.EXPIRED
        if ended:
            return
    raise AssertionError("more steps than thought")


def test_a_hold_keeps_a_backup_until_it_is_released_or_expires(site: Site) -> None:
    ids = [stored(site, NOW - days * DAY) for days in (200, 199, 198, 1)]
    hold = put_hold(site, ids[1], reason="the auditor", expires_at=None)
    put_hold(site, ids[2], reason="a week", expires_at=NOW + 7 * DAY)
    shown = plan(site, "streamflix", "local")
    reasons = {fate.backup.id: fate.rules for fate in shown.fates}
    assert reasons[ids[1]] == ("held by test until it is released: the auditor",)
    apply(site, shown.document())
    assert {ids[1], ids[2]} <= left(site)
    release_hold(site, hold)
    later = dataclasses.replace(site, clock=lambda: NOW + 7 * DAY)
    assert not holds_of(later, later.local, BackupId.parse(ids[2]))
    apply(later, plan(later, "streamflix", "local").document())
    assert not {ids[1], ids[2]} & left(site)


def test_a_hold_that_comes_between_plan_and_deletion_counts(site: Site) -> None:
    lived(site)
    shown = plan(site, "streamflix", "local")
    chosen = next(one for one in shown.going if one.kind is Kind.BASE)
    with leased(site, [chosen.id], "a recovery of last month"):
        applied = apply(site, shown.document())
        assert chosen.id in left(site)
        assert list_archive(site.local, "streamflix", "7").stretches[0].start == chosen.physical.start  # type: ignore[union-attr]
    assert chosen.id not in applied.backups
    apply(site, plan(site, "streamflix", "local").document())
    assert chosen.id not in left(site)


def test_a_damaged_hold_holds(site: Site) -> None:
    old, _ = stored(site, NOW - 200 * DAY), stored(site, NOW - DAY)
    stored(site, NOW - 199 * DAY)
    hold = put_hold(site, old, reason="r", expires_at=NOW + DAY)
    (site.settings.paths.backups / BackupId.parse(old).key(f"attest/hold-{hold.id}.json")).write_text("{}")
    shown = plan(site, "streamflix", "local")
    assert any(old in problem for problem in shown.problems)
    assert any(old in failure for failure in apply(site, shown.document()).failures)
    assert old in left(site)


class Locked(LocalStore):
    """A repository that lets some objects not go (object lock)."""

    locked: str = ""

    def delete(self, key: str) -> None:
        if self.locked in key:
            raise UnfitError(f"{key} is locked")
        super().delete(key)


def test_what_cannot_be_deleted_is_told_whole_and_tried_again(site: Site) -> None:
    base = stored(site, NOW - 50 * DAY, Kind.BASE)
    child = stored(site, NOW - 49 * DAY, Kind.INCREMENTAL, parent=base)
    for days in (1, 20):
        stored(site, NOW - days * DAY, Kind.BASE)
    archived(site, 1)
    store = Locked(site.settings.paths.backups)
    store.locked = child
    locked = dataclasses.replace(site, repositories={"local": store})
    applied = apply(locked, plan(locked, "streamflix", "local").document())
    assert applied.backups == ()
    assert {base, child} <= left(site)
    assert len(applied.failures) == 2
    for days in (60, 59, 58):
        archived(site, days)
    store.locked = Segment(1, 100 - 59, SIZE).name
    assert apply(locked, plan(locked, "streamflix", "local").document()).failures
    assert {base, child}.isdisjoint(left(site))
    assert len(list_archive(site.local, "streamflix", "7").segments) == 3, "oldest first, as far as it goes"
    store.locked = "nothing"
    assert not apply(locked, plan(locked, "streamflix", "local").document()).failures
    assert list_archive(site.local, "streamflix", "7").last(1) == Segment(1, 99, SIZE)


def test_rotations_and_captures_exclude_each_other(site: Site) -> None:
    lived(site)
    shown = plan(site, "streamflix", "local").document()
    with site.catalog.exclusive("streamflix", purpose="backup"), pytest.raises(BusyError):
        apply(site, shown)
    outcomes: list[object] = []

    def rotate() -> None:
        try:
            outcomes.append(len(apply(site, shown).backups))
        except BusyError:
            outcomes.append("busy")

    threads = [threading.Thread(target=rotate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gone = sum(one for one in outcomes if isinstance(one, int))
    assert gone == len([one for one in shown["backups"] if not one["rules"]])


def test_a_catalog_that_has_not_read_the_repository_deletes_nothing(site: Site) -> None:
    stored(site, NOW - 60 * DAY)
    stored(site, NOW - DAY)
    moved = stored(site, NOW - 70 * DAY)
    folder = site.settings.paths.backups / "full"
    (folder / moved).rename(folder / moved.replace("_2026", "_2025"))
    with pytest.raises(RefusedError, match="does not know what local holds") as caught:
        plan(site, "streamflix", "local")
    assert "catalog rebuild" in str(caught.value.hint)


def test_remains_go_in_time_and_what_lost_its_checksums_stays(site: Site) -> None:
    stored(site, NOW - DAY)
    lost = stored(site, NOW - 2 * DAY)
    root = site.settings.paths.backups
    (root / BackupId.parse(lost).key(SUMS)).unlink()
    (root / BackupId.parse(lost).key(MANIFEST)).unlink()
    for hours in (1, 100):
        dead = BackupId.at("streamflix", NOW - timedelta(hours=hours), Kind.FULL)
        put(site.local, dead.key("d.dump"), DATA)
        moment = (NOW - timedelta(hours=hours)).timestamp()
        os.utime(root / dead.key("d.dump"), (moment, moment))
    shown = plan(site, "streamflix", "local")
    assert [str(one.backup_id) for one in shown.remains] == [str(dead)]
    assert any(lost in problem for problem in shown.problems)
    apply(site, shown.document())
    assert not (root / dead.directory).exists()
    assert (root / BackupId.parse(lost).key("d.dump")).exists()


def test_a_backup_under_deletion_is_not_offered(site: Site) -> None:
    old, newest = stored(site, NOW - 3 * DAY), stored(site, NOW - DAY)
    assert choose_dump(site, "streamflix", "app", None, repository="local", even_rejected=False).manifest.id == newest
    site.local.delete(BackupId.parse(newest).key(SUMS))
    assert choose_dump(site, "streamflix", "app", None, repository="local", even_rejected=False).manifest.id == old


def test_what_is_not_a_plan_is_refused(site: Site) -> None:
    for document in ({}, {"cluster": "streamflix", "repository": "local", "backups": [1], "remains": [], "wal": []}):
        with pytest.raises(Exception, match="not a rotation plan"):
            apply(site, document)

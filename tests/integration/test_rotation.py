"""Rotation of a real repository and a real catalog: killed at each step, held, refused; what is left recovers."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.support import aged
from tests.support.aged import DATA, SIZE, put
from tests.support.source import Source

from pgbackup.copy import copy_backup, copy_missing, missing_copies
from pgbackup.domain.attestation import Attestation, seal
from pgbackup.domain.errors import BusyError, ConfigurationError, RefusedError, UnfitError
from pgbackup.domain.ids import MANIFEST, SUMS, BackupId
from pgbackup.domain.model import CopyState, Kind, State, Verdict, Verification
from pgbackup.domain.ports import Site
from pgbackup.domain.sums import format_sums
from pgbackup.domain.wal import Segment
from pgbackup.recover.dumps import choose_dump
from pgbackup.restore.archive import list_archive
from pgbackup.restore.holds import holds_of, leased, put_hold, release_hold
from pgbackup.restore.rebuild import committed
from pgbackup.rotate import apply, plan
from pgbackup.store import LocalStore
from pgbackup.verify import check_files, conclude, open_attempt, verify

NOW = datetime(2026, 3, 20, 7, tzinfo=UTC)
DAY = timedelta(days=1)


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture
def site(site_for: Callable[..., Site], library: Source) -> Site:
    return dataclasses.replace(site_for(library, encrypted=False), clock=lambda: NOW)


def stored(
    site: Site,
    moment: datetime,
    kind: Kind = Kind.FULL,
    verdict: Verdict | None = Verdict.VERIFIED,
    parent: str | None = None,
    **options: Any,
) -> str:
    return aged.stored(site, moment, kind, verdict, parent, day=(moment - NOW).days + 100, **options)


def archived(site: Site, days: int) -> Segment:
    """The WAL of one day, ``days`` ago."""
    return aged.archived(site.local, 100 - days, NOW - (days - 1) * DAY)


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
    with leased(site, "local", [chosen.id], "a recovery of last month"):
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


# ---------------------------------------------------------------------------------------- what is not as it should be


def folder_of(site: Site, backup_id: str) -> Path:
    return site.settings.paths.backups / BackupId.parse(backup_id).directory


def test_a_listing_that_is_cut_short_or_empty_deletes_nothing(site: Site) -> None:
    ids = lived(site)
    shown = plan(site, "streamflix", "local").document()
    away = folder_of(site, ids[-1])
    away.rename(away.with_name(f".{away.name}"))
    for rotate in (lambda: plan(site, "streamflix", "local"), lambda: apply(site, shown)):
        with pytest.raises(RefusedError, match="does not show 1 backups that the catalog has") as caught:
            rotate()
        assert f"pgbackup verify {ids[-1]} --repository local" in str(caught.value.hint)
    elsewhere = LocalStore(site.settings.paths.backups.parent / "wrong")
    with pytest.raises(RefusedError, match=f"does not show {len(ids)} backups"):
        plan(dataclasses.replace(site, repositories={"local": elsewhere}), "streamflix", "local")
    verify(site, ids[-1], "local")  # what is known as lost stops nothing
    assert not apply(site, plan(site, "streamflix", "local").document()).failures


@pytest.mark.parametrize("harm", ["unreadable", "other time zone", "no position"])
def test_what_nobody_can_read_stays_with_what_it_stands_on(site: Site, harm: str) -> None:
    base = stored(site, NOW - 50 * DAY, Kind.BASE)
    child = stored(site, NOW - 49 * DAY, Kind.INCREMENTAL, parent=base)
    for days in (1, 20):
        stored(site, NOW - days * DAY, Kind.BASE)
    folder = folder_of(site, child)
    text = (folder / MANIFEST).read_text()
    changes = {
        "unreadable": ("}", ""),
        "other time zone": ('"backup_time": "2026-01-30T07:01:00Z"', '"backup_time": "2026-01-30T07:01:00"'),
        "no position": ('"start_lsn": "0/', '"start_lsn": "x/'),
    }
    before, after = changes[harm]
    compact = text if before in text else text.replace('": ', '":')
    before = before if before in compact else before.replace('": ', '":')
    assert before in compact
    harmed = compact.replace(before, after, 1).encode()
    (folder / MANIFEST).write_bytes(harmed)
    (folder / SUMS).write_bytes(
        format_sums({"base.tar.zst": sha256(DATA).hexdigest(), MANIFEST: sha256(harmed).hexdigest()})
    )
    shown = plan(site, "streamflix", "local")
    assert [one.id for one in shown.going] == []
    assert any(child in problem for problem in shown.problems)
    assert any(child in failure for failure in apply(site, shown.document()).failures)
    assert {base, child} <= left(site)


@pytest.mark.parametrize("lost", [SUMS, "base.tar.zst"])
def test_what_is_damaged_counts_for_nothing_and_is_told(site: Site, lost: str) -> None:
    """The catalog says that it is verified: the older base has to reach the window all the same."""
    older, newer = stored(site, NOW - 40 * DAY, Kind.BASE), stored(site, NOW - 16 * DAY, Kind.BASE)
    for days in range(40, 0, -1):
        archived(site, days)
    stored(site, NOW - DAY, Kind.BASE)
    assert [one.id for one in plan(site, "streamflix", "local").going] == [older]
    (folder_of(site, newer) / lost).unlink()
    shown = plan(site, "streamflix", "local")
    assert (shown.going, sum(cut.count for cut in shown.cuts)) == ((), 0)
    assert [problem for problem in shown.problems if newer in problem and lost in problem]
    assert apply(site, shown.document()).failures == shown.problems


def test_the_catalog_is_not_believed_when_the_repository_says_something_else(site: Site) -> None:
    """It was restored from before the verdict."""
    good, bad = stored(site, NOW - 100 * DAY), stored(site, NOW - DAY)
    name, text = seal(Attestation.of(Verification(bad, "local", 2, NOW, NOW, Verdict.REJECTED)))
    put(site.local, BackupId.parse(bad).key(name), text)
    shown = plan(site, "streamflix", "local")
    assert good not in {one.id for one in shown.going}
    assert any(bad in problem and "has not read its verdict" in problem for problem in shown.problems)


def test_a_clock_that_jumped_a_year_ahead_deletes_nothing(site: Site) -> None:
    moment = datetime.now(UTC)
    kept = [stored(site, moment - days * DAY, kind) for days in range(1, 30) for kind in (Kind.FULL, Kind.BASE)]
    stored(site, moment - 29 * DAY + timedelta(hours=1), verdict=None)
    stored(site, moment - 29 * DAY + timedelta(hours=2), verdict=Verdict.REJECTED)
    half = BackupId.at("streamflix", moment, Kind.FULL)
    put(site.local, half.key("d.dump"), DATA)
    now = dataclasses.replace(site, clock=lambda: moment)
    old = kept[-1]
    put_hold(now, old, reason="a recovery", expires_at=moment + DAY, with_wal=True)
    today = plan(now, "streamflix", "local")
    ahead = dataclasses.replace(site, clock=lambda: moment + 365 * DAY)
    shown = plan(ahead, "streamflix", "local")
    assert shown.going == today.going
    assert shown.remains == ()
    assert {one.backup.id: one.rules for one in shown.fates}[old][-1].startswith("held by test")


def test_a_cluster_whose_name_begins_like_another_one_is_another_one(site: Site) -> None:
    both = dict.fromkeys(("app", "app_eu"), site.settings.clusters["streamflix"])
    site = dataclasses.replace(site, settings=site.settings.model_copy(update={"clusters": both}))
    ids = {name: [stored(site, NOW - days * DAY, cluster=name) for days in (200, 199, 1)] for name in ("app", "app_eu")}
    aged.archived(site.local, 1, NOW - 100 * DAY, "app_eu")
    assert apply(site, plan(site, "app", "local").document()).backups == (ids["app"][1],)
    assert set(ids["app_eu"]) <= left(site)
    assert [one.key for one in site.local.list("wal/app_eu/")]
    with pytest.raises(ConfigurationError):
        plan(site, "app_us", "local")


def test_a_damaged_description_of_wal_stops_no_rotation_and_misleads_none(site: Site) -> None:
    lived(site)
    expected = [(cut.before, cut.count) for cut in plan(site, "streamflix", "local").cuts]
    first = min((site.settings.paths.backups / "wal").rglob("*.json"))
    text = first.read_text()
    for harmed in ("{", text.replace(str(SIZE), str(16 * SIZE))):
        first.write_text(harmed)
        os.utime(first, ((NOW - 49 * DAY).timestamp(),) * 2)
        assert [(cut.before, cut.count) for cut in plan(site, "streamflix", "local").cuts] == expected


# --------------------------------------------------------------------------------------------- others at the same time


class Watched(LocalStore):
    """A repository in which something happens before or after a deletion."""

    def __init__(self, root: Path, name: str = "local") -> None:
        super().__init__(root, name=name)
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def delete(self, key: str) -> None:
        for end in [end for end in self.before if key.endswith(end)]:
            self.before.pop(end)()
        super().delete(key)
        for end in [end for end in self.after if key.endswith(end)]:
            self.after.pop(end)()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hold_and_a_deletion_at_the_same_moment_one_of_both_gives_way(site: Site, when: str) -> None:
    ids = [stored(site, NOW - days * DAY) for days in (200, 199, 1)]
    store = Watched(site.settings.paths.backups)
    watched = dataclasses.replace(site, repositories={"local": store})
    held: list[object] = []

    def hold() -> None:
        try:
            held.append(put_hold(site, ids[1], reason="now", expires_at=None))
        except RefusedError:
            held.append(None)

    getattr(store, when)[SUMS] = hold
    applied = apply(watched, plan(watched, "streamflix", "local").document())
    assert len(held) == 1
    assert (held[0] is None) == (ids[1] in applied.backups)
    assert (held[0] is None) == (ids[1] not in left(site))
    if held[0]:
        assert "now" in applied.failures[0]
        assert not plan(site, "streamflix", "local").problems


def test_wal_that_a_recovery_holds_while_backups_are_deleted_stays(site: Site) -> None:
    lived(site)
    store = Watched(site.settings.paths.backups)
    watched = dataclasses.replace(site, repositories={"local": store})
    shown = plan(watched, "streamflix", "local")
    oldest = next(one for one in reversed(shown.fates) if one.backup.kind is Kind.BASE and one.rules).backup
    lost = [one for one in shown.going if one.kind is Kind.BASE][-1]
    put_hold(site, lost.id, reason="kept by itself", expires_at=None)
    store.after[SUMS] = lambda: put_hold(site, lost.id, reason="recovery", expires_at=None, with_wal=True)
    apply(watched, shown.document())
    assert lost.physical is not None
    assert oldest.physical is not None
    assert list_archive(site.local, "streamflix", "7").stretches[0].start == lost.physical.start < oldest.physical.start


@pytest.fixture
def far(site: Site) -> Site:
    """The same with a second repository."""
    root = site.settings.paths.backups.with_name("far")
    return dataclasses.replace(site, repositories={**site.repositories, "far": Watched(root, "far")})


def test_what_is_half_copied_goes_when_it_is_old_unless_it_is_copied_on(far: Site) -> None:
    new, old = stored(far, NOW - 2 * DAY), stored(far, NOW - DAY)
    store = far.repositories["far"]
    assert isinstance(store, Watched)
    for backup_id, hours in ((new, 1), (old, 100)):
        key = BackupId.parse(backup_id).key("d.dump")
        put(store, key, DATA)
        os.utime(store.root / key, ((NOW - timedelta(hours=hours)).timestamp(),) * 2)
    newest = [stored(far, NOW - age, Kind.BASE, repositories=("local", "far")) for age in (20 * DAY, DAY / 8)]
    shown = plan(far, "streamflix", "far")
    assert [str(one.backup_id) for one in shown.remains] == [old]
    apply(far, shown.document())
    assert [backup.id for backup in missing_copies(far, "streamflix", "far")] == [new, old]
    key = BackupId.parse(old).key("d.dump")
    put(store, key, DATA)
    os.utime(store.root / key, ((NOW - timedelta(hours=100)).timestamp(),) * 2)
    doomed = aged.stored(far, NOW - 400 * DAY, Kind.BASE, day=1, repositories=("local", "far"))
    shown = plan(far, "streamflix", "far")
    store.before[SUMS] = lambda: copy_backup(far, old, "far")  # goes on after the plan, before it is its turn
    assert doomed in apply(far, shown.document()).backups
    assert {old, *newest} <= {str(one) for one in committed(store)}
    assert not plan(far, "streamflix", "far").problems


def test_what_was_deleted_there_is_not_copied_again_and_what_is_gone_here_is_not_missed(far: Site) -> None:
    ids = [stored(far, NOW - days * DAY, repositories=("local", "far")) for days in (200, 199, 1)]
    only_here = stored(far, NOW - 198 * DAY)
    assert apply(far, plan(far, "streamflix", "far").document()).backups == (ids[1],)
    assert [backup.id for backup in missing_copies(far, "streamflix", "far")] == [only_here]
    apply(far, plan(far, "streamflix", "local").document())
    assert missing_copies(far, "streamflix", "far") == ()
    assert copy_missing(far, "streamflix", "far") == ()


def test_a_copy_that_the_catalog_does_not_know_yet_stays(far: Site) -> None:
    backup_id = stored(far, NOW - 199 * DAY)
    stored(far, NOW - DAY, repositories=("local", "far"))
    for one in list(far.local.list(BackupId.parse(backup_id).key(""))):
        put(far.repositories["far"], one.key, far.local.read(one.key))
    shown = plan(far, "streamflix", "far")
    assert {one.backup.id: one.rules for one in shown.fates}[backup_id] == ("just copied",)


def test_repositories_are_rotated_at_the_same_time(far: Site) -> None:
    ids = [stored(far, NOW - days * DAY, repositories=("local", "far")) for days in (200, 199, 1)]
    shown = plan(far, "streamflix", "local").document()
    store = far.repositories["far"]
    assert isinstance(store, Watched)
    store.after[SUMS] = lambda: apply(far, shown)
    assert apply(far, plan(far, "streamflix", "far").document()).backups == (ids[1],)
    assert ids[1] not in left(far)
    with far.catalog.exclusive("streamflix", purpose="backup"):
        assert not apply(far, plan(far, "streamflix", "far").document()).failures, "captures are none of its business"


def test_what_was_deleted_while_it_was_verified_is_not_rejected(far: Site) -> None:
    ids = [stored(far, NOW - days * DAY, repositories=("local", "far")) for days in (200, 199, 1)]
    attempt = open_attempt(far, ids[1], "local")
    apply(far, plan(far, "streamflix", "local").document())
    findings = check_files(far, attempt)
    assert not all(finding.ok for finding in findings)
    assert conclude(far, attempt, findings).verdict is None
    states = {copy.repository: copy.state for copy in far.catalog.copies(ids[1])}
    assert (states["local"], states["far"]) == (CopyState.EXPIRED, CopyState.VERIFIED)
    backup = far.catalog.backup(ids[1])
    assert backup is not None
    assert backup.state is State.VERIFIED


def test_a_release_that_nobody_can_read_releases_nothing(site: Site) -> None:
    old, _ = stored(site, NOW - 199 * DAY), stored(site, NOW - 200 * DAY)
    stored(site, NOW - DAY)
    hold = put_hold(site, old, reason="r", expires_at=None)
    put(site.local, BackupId.parse(old).key(f"attest/release-{hold.id}.json"), b"{}")
    assert plan(site, "streamflix", "local").going == ()

"""Where replay equals a snapshot: the rule, against a simulated server that commits in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.lsn import Lsn
from pgbackup.postgres.marked_point import Commit, Visibility, commits, common_point, stop_range

WALDUMP = """\
rmgr: Transaction len (rec/tot):     34/    34, tx:        762, lsn: 0/05000078, prev 0/05000028, desc: COMMIT 2026-11-22 17:04:21.425596 UTC
rmgr: Transaction len (rec/tot):     66/    66, tx:          0, lsn: 0/05000100, prev 0/05000078, desc: COMMIT_PREPARED 763: 2026-11-22 17:04:21.425596 UTC; subxacts: 764
rmgr: Transaction len (rec/tot):     34/    34, tx:        765, lsn: 0/05000150, prev 0/05000100, desc: ABORT 2026-11-22 17:04:21.425596 UTC
"""  # noqa: E501 - as pg_waldump prints it


def test_commits_are_read_from_pg_waldump() -> None:
    assert list(commits(WALDUMP)) == [Commit(Lsn.parse("0/5000078"), 762), Commit(Lsn.parse("0/5000100"), 763)]


@given(epoch=st.integers(0, 3), low=st.integers(3, 2**32 - 1), behind=st.integers(1, 10**6))
def test_32_bit_transaction_ids_compare_across_epochs(epoch: int, low: int, behind: int) -> None:
    xmax = (epoch << 32) + low
    seen = Visibility(xmax, frozenset({xmax - 1}))
    assert not seen.sees(xmax % 2**32)
    assert not seen.sees((xmax - 1) % 2**32)
    assert seen.sees((xmax - 1 - behind) % 2**32)
    assert not seen.sees((xmax + behind) % 2**32)


@given(
    order=st.permutations(range(10, 30)),
    became_visible=st.lists(st.integers(0, 3), min_size=20, max_size=20),
    position=st.integers(0, 19),
)
def test_replay_to_the_range_shows_what_the_snapshot_saw(
    order: list[int], became_visible: list[int], position: int
) -> None:
    """Transactions commit in ``order``, each visible a little later than its record; a snapshot falls in between."""
    records = [Commit(Lsn(1000 + 10 * index), xid) for index, xid in enumerate(order)]
    visible = {xid for index, xid in enumerate(order) if index + became_visible[index] < position}
    records.append(Commit(Lsn(5000), 99))  # the capture's own message, behind every snapshot
    seen = Visibility(31, frozenset(range(10, 31)) - visible)
    found = stop_range(records, seen, before=Lsn(0), consistent_from=Lsn(1000))
    if found is None:
        unseen = [record.lsn for record in records if record.xid not in visible]
        late = [record.lsn for record in records if record.xid in visible]
        assert late
        assert max(late) > min(unseen) or min(unseen) < Lsn(1000)
        return
    for point in (found.low, found.high):
        assert {record.xid for record in records if record.lsn < point} == visible


def test_a_common_point_fits_every_snapshot() -> None:
    records = [Commit(Lsn(100), 10), Commit(Lsn(200), 11), Commit(Lsn(300), 12)]
    first = stop_range(records, Visibility(12, frozenset()), before=Lsn(0), consistent_from=Lsn(0))
    second = stop_range(records, Visibility(12, frozenset()), before=Lsn(250), consistent_from=Lsn(0))
    early = stop_range(records, Visibility(11, frozenset()), before=Lsn(0), consistent_from=Lsn(0))
    assert first is not None
    assert second is not None
    assert early is not None
    assert common_point([first, second]) == Lsn(300)
    assert common_point([first, early]) is None


def test_no_point_before_the_backup_is_consistent() -> None:
    records = [Commit(Lsn(100), 10)]
    assert stop_range(records, Visibility(10, frozenset()), before=Lsn(0), consistent_from=Lsn(101)) is None

"""What an incremental run takes, and what a chain is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import manifests

from pgbackup.domain.chain import chain_of, data_links, next_backup
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import merged
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Finding, Kind
from pgbackup.domain.settings import IncrementalBackup


def link(number: int, method: str | None, parent: str | None, **server: Any) -> Manifest:
    full = manifests.manifest()
    return full.model_copy(
        update={
            "id": f"streamflix_20260101_0000{number:02}_{'incr' if method else 'base'}",
            "kind": Kind.INCREMENTAL if method else Kind.BASE,
            "method": method,
            "parent": parent,
            "server": full.server.model_copy(update=server),
        }
    )


def chain(*methods: str) -> tuple[Manifest, ...]:
    links = [link(0, None, None)]
    for number, method in enumerate(methods, start=1):
        parent = data_links(tuple(links))[-1] if method == "block" else links[-1]
        links.append(link(number, method, parent.id))
    return tuple(links)


def test_the_chain_of_a_backup_leads_to_its_base() -> None:
    links = chain("block", "wal", "wal", "block")
    known = {one.id: one for one in links}
    assert chain_of(links[3], known) == links[:4]
    assert chain_of(links[4], known) == (*links[:2], links[4])  # a block incremental stands on files, not on WAL
    assert data_links(links[:4]) == links[:2]


@pytest.mark.parametrize("fault", ["missing", "another system", "a circle"])
def test_a_chain_that_does_not_hold_together_is_refused(fault: str) -> None:
    base, child = chain("block")
    known = {base.id: base, child.id: child}
    if fault == "missing":
        del known[base.id]
    elif fault == "another system":
        known[base.id] = link(0, None, None, system_identifier="1")
    else:
        known[base.id] = base.model_copy(update={"kind": Kind.INCREMENTAL, "parent": child.id})
    with pytest.raises(RefusedError):
        chain_of(child, known)


@given(
    methods=st.lists(st.sampled_from(["block", "wal"]), max_size=6),
    wanted=st.sampled_from(["auto", "block", "wal"]),
    longest=st.integers(1, 6),
    summarizes=st.booleans(),
    has_manifest=st.booleans(),
    moved=st.sampled_from(["", "timeline", "system"]),
)
def test_an_incremental_stands_only_where_it_can(
    methods: list[str], wanted: Any, longest: int, summarizes: bool, has_manifest: bool, moved: str
) -> None:
    newest = chain(*methods)
    changes: dict[str, Any] = {"timeline": {"timeline": 9}, "system": {"system_identifier": "9"}}.get(moved, {})
    server = newest[-1].server.model_copy(update=changes)
    options = IncrementalBackup(method=wanted, longest_chain=longest)
    taken = next_backup(newest, server, options, summarizes=summarizes, has_backup_manifest=has_manifest)
    can_block = wanted != "wal" and summarizes and has_manifest
    if moved or len(methods) >= longest or (wanted == "block" and not can_block):
        assert (taken.method, taken.parent) == (None, None)
    elif can_block:
        assert (taken.method, taken.parent) == ("block", data_links(newest)[-1])
    else:
        assert (taken.method, taken.parent) == ("wal", newest[-1])
    assert taken.reason


def test_without_any_base_one_is_taken() -> None:
    server = manifests.manifest().server
    taken = next_backup((), server, IncrementalBackup(), summarizes=True, has_backup_manifest=True)
    assert taken.method is None


def test_merged_findings_hold_only_where_all_do() -> None:
    good, bad = Finding("rows", True, 1.0, "3 tables"), Finding("rows", False, 2.0, "1 row", "look")
    assert merged([[good], [bad, Finding("roles", True, 0.0)]]) == (
        Finding("rows", False, 3.0, "3 tables; 1 row", "look"),
        Finding("roles", True, 0.0),
    )

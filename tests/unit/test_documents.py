"""Manifests and attestations: read back as they were written, refused when they are anything else."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.manifests import MOMENT, manifest

from pgbackup.domain.attestation import Attestation, seal, unseal
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import failures, some, timed, verdict
from pgbackup.domain.manifest import parse_manifest
from pgbackup.domain.model import Finding, Verdict, Verification

findings = st.lists(
    st.builds(Finding, st.text(), st.booleans(), st.floats(0, 1e6), st.text(), st.text()), max_size=4
).map(tuple)
verifications = st.builds(
    Verification,
    st.just(manifest().id),
    st.just("eu-west"),
    st.integers(1, 9999),
    st.just(MOMENT),
    st.sampled_from([None, MOMENT + timedelta(seconds=3)]),
    st.sampled_from([None, *Verdict]),
    findings,
    st.text(),
)


def test_a_manifest_is_read_back() -> None:
    assert parse_manifest(manifest().to_json(), source="m") == manifest()


def document(**changes: Any) -> bytes:
    return json.dumps({**json.loads(manifest().to_json()), **changes}).encode()


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (manifest().to_json()[:-10], "Invalid JSON"),
        (b"[]", ""),
        (document(format=2), "format: "),
        (document(more=1), "more: Extra inputs are not permitted"),
        (document(id=None), "id: "),
        (document(databases=[{}]), "databases.0."),
        (document(started_at="yesterday"), "started_at: "),
        (document(kind="partial"), "kind: "),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_the_place(text: bytes, detail: str) -> None:
    with pytest.raises(RefusedError, match="is not a manifest that this version reads") as caught:
        parse_manifest(text, source="m")
    assert detail in str(caught.value.detail)


@given(st.integers(0, 10**6))
def test_a_manifest_that_was_cut_is_refused(length: int) -> None:
    text = manifest().to_json().rstrip()
    with pytest.raises(RefusedError):
        parse_manifest(text[: length % len(text)], source="m")


def test_what_a_manifest_does_not_hold_is_refused() -> None:
    with pytest.raises(RefusedError, match="does not hold database 'gone'") as caught:
        manifest().database("gone")
    assert "d\u00e9" in str(caught.value.detail)
    with pytest.raises(RefusedError, match="does not list 'gone'"):
        manifest().file("gone")


@given(verifications)
def test_an_attestation_is_read_back(verification: Verification) -> None:
    name, text = seal(Attestation.of(verification))
    assert unseal(name, text).verification() == verification
    assert name.startswith("attest/verdict-eu-west-")


@given(verifications, st.data())
def test_an_attestation_with_a_changed_byte_is_refused(verification: Verification, data: st.DataObject) -> None:
    name, sealed = seal(Attestation.of(verification))
    text = bytearray(sealed)
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RefusedError):
        unseal(name, bytes(text))


def test_an_attestation_under_another_name_is_refused() -> None:
    first = seal(Attestation.of(Verification("a", "r", 1, MOMENT, None, Verdict.REJECTED)))
    second = seal(Attestation.of(Verification("a", "r", 1, MOMENT, None, Verdict.VERIFIED)))
    with pytest.raises(RefusedError):
        unseal(first[0], second[1])


@given(findings)
def test_one_finding_that_does_not_hold_rejects(found: tuple[Finding, ...]) -> None:
    assert (verdict(found) is Verdict.VERIFIED) == all(finding.ok for finding in found)
    assert (failures(found) == "") == (verdict(found) is Verdict.VERIFIED)


def test_a_check_is_timed_and_hints_only_when_it_failed() -> None:
    clock = iter([1.0, 3.5, 4.0, 4.0])
    held = timed("a", lambda: (True, "d", "h"), clock=lambda: next(clock))
    failed = timed("a", lambda: (False, "d", "h"), clock=lambda: next(clock))
    assert (held, failed) == (Finding("a", True, 2.5, "d", ""), Finding("a", False, 0.0, "d", "h"))


@given(st.lists(st.text("abc", min_size=1), max_size=9))
def test_a_few_names_and_the_number_of_the_rest(names: list[str]) -> None:
    text = some(names)
    assert text.startswith(", ".join(names[:5]))
    assert ("more" in text) == (len(names) > 5)

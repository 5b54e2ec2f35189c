"""The audit's own arithmetic: what packets tell, how listings are compared, how much of them is kept."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.audit import names
from pgbackup.audit.bucket import audit_bucket
from pgbackup.audit.encryption import Sample
from pgbackup.audit.files import Entry, judge_entries
from pgbackup.audit.text import audit_text
from pgbackup.domain.model import Finding, ObjectInfo, Severity
from pgbackup.domain.openpgp import Packet, first_packets
from pgbackup.domain.settings import S3
from pgbackup.restore.listing import absent
from pgbackup.store.s3_audit import Bucket, Untold

MOMENT = datetime(2026, 1, 5, 8, tzinfo=UTC)
SYMMETRIC = bytes.fromhex("8c0d040903085f1c2a3b4c5d6e7f60")
"""What gpg begins with: a session key for a passphrase (old format, version 4)."""
FOR_KEY = bytes.fromhex("845e03") + bytes(8) + b"\x12" + bytes(84)
DATA = bytes.fromhex("d2ff01")
"""Protected data of unknown length (new format)."""


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        (SYMMETRIC + DATA, {Packet.FOR_PASSPHRASE}),
        (FOR_KEY + DATA, {Packet.FOR_KEY}),
        (FOR_KEY + FOR_KEY + DATA, {Packet.FOR_KEY}),
        (FOR_KEY + SYMMETRIC + DATA, {Packet.FOR_KEY, Packet.FOR_PASSPHRASE}),
        (FOR_KEY + FOR_KEY[:20], {Packet.FOR_KEY}),
        (b"\xc3\x0d" + SYMMETRIC[2:] + DATA, {Packet.FOR_PASSPHRASE}),
        (b"", set()),
        (b"PGDMP\x01\x10", set()),
        (b"\x28\xb5\x2f\xfd\x04\x58", set()),
        (DATA, set()),
        (SYMMETRIC + b"PGDMP", set()),
        (b"\x8c\x0d\x63" + bytes(12), set()),
        (b"\xff" * 64, set()),
    ],
)
def test_packets_tell_how_a_message_is_opened(beginning: bytes, expected: set[Packet]) -> None:
    assert first_packets(beginning) == expected


@given(st.binary(max_size=200))
def test_no_bytes_confuse_it(beginning: bytes) -> None:
    first_packets(beginning)


def info(key: str, age: float = 0.0) -> ObjectInfo:
    return ObjectInfo(key, 1, MOMENT - timedelta(seconds=age))


@given(st.sets(st.text("ab-/.", max_size=4)), st.sets(st.text("ab-/.", max_size=4)))
def test_what_is_absent_is_the_difference_of_two_sorted_listings(wanted: set[str], held: set[str]) -> None:
    found = absent(map(info, sorted(wanted)), map(info, sorted(held)))
    assert [one.key for one in found] == sorted(wanted - held)


@given(st.integers(0, 1000))
def test_a_sample_has_the_newest_and_some_of_the_rest_and_never_more(count: int) -> None:
    sample = Sample()
    for number in range(count):
        sample.add(info(str(number), age=number))
    keys = sample.keys()
    newest = [str(number) for number in range(min(count, 100))]
    assert keys[: len(newest)] == newest
    assert len(set(keys)) == len(keys)
    assert len(keys) <= 200
    assert count > 100 or len(keys) == count


ROOT = Path("/b")
FILE, FOLDER, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Entry(ROOT / "f", FILE | 0o600, 7, 1), None),
        (Entry(ROOT / "f", FOLDER | 0o700, 7, 1), None),
        (Entry(ROOT / "f", FILE | 0o604, 7, 1), names.PRIVATE),
        (Entry(ROOT / "f", FOLDER | 0o710, 7, 1), names.PRIVATE),
        (Entry(ROOT / "f", FILE | 0o600, 8, 1), names.OWNER),
        (Entry(ROOT / "f", FOLDER | 0o700, 7, 2), names.ONE_FILE_SYSTEM),
        (Entry(ROOT / "f", LINK | 0o777, 8, 1, Path("/etc/passwd")), names.LINKS),
        (Entry(ROOT / "f", LINK | 0o777, 8, 1, Path("/backups")), names.LINKS),
        (Entry(ROOT / "f", LINK | 0o777, 8, 1, ROOT / "g"), None),
    ],
)
@pytest.mark.parametrize("account", [7, 0])
def test_modes_owners_mounts_and_links(entry: Entry, name: str | None, account: int) -> None:
    found = judge_entries(ROOT, [Entry(ROOT, FOLDER | 0o700, 7, 1), entry], account=account)
    assert [one.name for one in found if not one.ok] == ([name] if name else [])


BLOCKED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
GOOD = {
    "versioning": {"Status": "Enabled"},
    "lock": {"ObjectLockEnabled": "Enabled"},
    "block": BLOCKED,
    "encryption": {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]},
    "acl": {"Grants": [{"Grantee": {"ID": "us"}, "Permission": "FULL_CONTROL"}]},
    "policy_status": {"IsPublic": False},
    "anonymous": (),
    "reaches": (),
}
EVERYBODY = {"Grantee": {"URI": "http://acs.amazonaws.com/groups/global/AllUsers"}, "Permission": "READ"}
DEFAULT = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 1}}}
UNTOLD = Untold("NotImplemented")
FAILS, WARNS, UNKNOWN = Severity.FAILURE, Severity.WARNING, Severity.UNKNOWN
NO_LOCK: dict[str, object] = {}
LOCK, HOLD = {"lock": {"retain": "14d"}}, {"lock": {"legal_hold": True}}


@pytest.mark.parametrize(
    ("answers", "settings", "encrypted", "expected"),
    [
        ({}, NO_LOCK, True, {}),
        ({}, LOCK, True, {}),
        ({"versioning": {}}, NO_LOCK, True, {names.VERSIONS: WARNS}),
        ({"versioning": {"Status": "Suspended"}}, LOCK, True, {names.VERSIONS: FAILS}),
        ({"versioning": UNTOLD}, NO_LOCK, True, {names.VERSIONS: UNKNOWN}),
        ({"lock": {}}, NO_LOCK, True, {}),
        ({"lock": {}}, LOCK, True, {names.LOCK: FAILS}),
        ({"lock": UNTOLD}, NO_LOCK, True, {names.LOCK: UNKNOWN}),
        ({"lock": UNTOLD}, LOCK, True, {names.LOCK: FAILS}),
        ({"lock": DEFAULT}, NO_LOCK, True, {names.LOCK: FAILS}),
        ({"lock": DEFAULT}, LOCK, True, {}),
        ({"lock": DEFAULT}, HOLD, True, {names.LOCK: FAILS}),
        ({"block": {}}, NO_LOCK, True, {names.BLOCKED: WARNS}),
        ({"block": {**BLOCKED, "BlockPublicPolicy": False}}, NO_LOCK, True, {names.BLOCKED: WARNS}),
        ({"block": UNTOLD}, NO_LOCK, True, {names.BLOCKED: UNKNOWN}),
        ({"acl": {"Grants": [EVERYBODY]}}, NO_LOCK, True, {names.NOT_PUBLIC: FAILS}),
        ({"policy_status": {"IsPublic": True}}, NO_LOCK, True, {names.NOT_PUBLIC: FAILS}),
        ({"anonymous": ("list it",), "acl": UNTOLD}, NO_LOCK, True, {names.NOT_PUBLIC: FAILS}),
        ({"acl": UNTOLD, "policy_status": UNTOLD}, NO_LOCK, True, {}),
        ({"encryption": {}}, NO_LOCK, True, {names.AT_REST: WARNS}),
        ({"encryption": {}}, NO_LOCK, False, {names.AT_REST: FAILS}),
        ({"encryption": {}}, {"encryption": "AES256"}, False, {}),
        ({"encryption": UNTOLD}, NO_LOCK, True, {names.AT_REST: UNKNOWN}),
        ({"encryption": UNTOLD}, NO_LOCK, False, {names.AT_REST: FAILS}),
        ({"reaches": ("see 3 other buckets",)}, NO_LOCK, True, {names.CREDENTIALS: WARNS}),
    ],
)
def test_a_bucket_is_judged_by_what_its_storage_tells(
    answers: dict[str, object], settings: dict[str, object], encrypted: bool, expected: dict[str, Severity]
) -> None:
    bucket = Bucket(**{**GOOD, **answers})  # type: ignore[arg-type]
    found = list(audit_bucket(bucket, S3.model_validate({"bucket": "b", **settings}), encrypted=encrypted))
    assert {one.name: one.severity for one in found if not one.ok} == expected
    assert all(one.hint for one in found if not one.ok)


def test_the_table_shows_what_has_to_be_mended_first_and_no_text_breaks_it() -> None:
    text = audit_text(
        "eu",
        [
            Finding("fine", True, 0.0),
            Finding("odd", False, 0.0, "a|b\nc", "look", Severity.WARNING),
            Finding("bad", False, 0.0, "why", "what"),
        ],
    )
    summary, _, *rows = text.splitlines()
    assert summary == "**eu**: 1 failures, 1 warnings or unknown, 1 hold."
    assert [row.split(" | ")[0] for row in rows] == ["| finding", "| ---", "| bad", "| odd", "| fine"]
    assert rows[3] == "| odd | **warning** | a\\|b c | look |"

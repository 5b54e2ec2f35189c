"""Judge a bucket by what its storage tells: versions, lock, who else may read, encryption at rest, our own rights."""

from __future__ import annotations

from collections.abc import Iterator

from pgbackup.audit import names
from pgbackup.audit.judge import judged, unknown
from pgbackup.domain.model import Finding, Severity
from pgbackup.domain.settings import S3
from pgbackup.store.s3_audit import Bucket, Told, Untold

_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_ASK = "let the credentials read the bucket's configuration, or look at it in the storage's own console"


def audit_bucket(bucket: Bucket, settings: S3, *, encrypted: bool) -> Iterator[Finding]:
    """Judge a bucket; ``encrypted`` tells that what we store is encrypted by us."""
    yield _versions(bucket.versioning, locked=settings.lock is not None)
    yield _lock(bucket.lock, settings)
    yield _public(bucket)
    yield _blocked(bucket.block)
    yield _at_rest(bucket.encryption, settings, encrypted=encrypted)
    yield judged(
        names.CREDENTIALS,
        not bucket.reaches,
        f"they can also {'; '.join(bucket.reaches)}" if bucket.reaches else "",
        "give the backup's account the objects under its own prefix, and nothing else",
        severity=Severity.WARNING,
    )


def _versions(told: Told, *, locked: bool) -> Finding:
    if isinstance(told, Untold):
        return unknown(names.VERSIONS, told.reason, _ASK)
    status = str(told.get("Status") or "Off")
    hint = "switch versioning on: what is deleted or overwritten by mistake or malice can be brought back then"
    severity = Severity.FAILURE if locked else Severity.WARNING
    return judged(names.VERSIONS, status == "Enabled", f"versioning: {status}", hint, severity=severity)


def _lock(told: Told, settings: S3) -> Finding:
    lock = settings.lock
    if isinstance(told, Untold):
        return unknown(names.LOCK, told.reason, _ASK, must=lock is not None)
    enabled = told.get("ObjectLockEnabled") == "Enabled"
    default = dict(told.get("Rule", {}).get("DefaultRetention", {}))
    detail = f"object lock: {'enabled' if enabled else 'off'}" + (
        f", by default {_retention(default)}" if default else ""
    )
    if lock is not None:
        wanted = f"{lock.mode}, {lock.retain or 'no retention'}{', legal hold' if lock.legal_hold else ''}"
        hint = "object lock has to be enabled for the bucket: make a new one with it, or leave out `lock`"
        contradicts = bool(default) and lock.retain is None
        return judged(names.LOCK, enabled and not contradicts, f"{detail}; configured: {wanted}", hint)
    hint = "rotation cannot delete what the bucket locks: configure `lock` as it is, or take the bucket's default away"
    return judged(names.LOCK, not default, f"{detail}; configured: none", hint)


def _retention(default: dict[str, object]) -> str:
    length = f"{default['Years']} years" if "Years" in default else f"{default.get('Days')} days"
    return f"{str(default.get('Mode')).lower()}, {length}"


def _public(bucket: Bucket) -> Finding:
    hint = "take the public access away at once, block it, and find out who has read: what was encrypted still is"
    policy = {} if isinstance(bucket.policy_status, Untold) else bucket.policy_status
    found = [
        *(f"anybody can {one}" for one in bucket.anonymous),
        *(f"its access list gives everybody {one}" for one in bucket.public_grants),
        *(["its policy is public"] if policy.get("IsPublic") else []),
    ]
    silent = [
        f"{name}: {told.reason}"
        for name, told in (("access list", bucket.acl), ("policy", bucket.policy_status))
        if isinstance(told, Untold)
    ]
    detail = "; ".join(found or [f"tried without credentials{'; not told: ' + ', '.join(silent) if silent else ''}"])
    return judged(names.NOT_PUBLIC, not found, detail, hint)


def _blocked(told: Told) -> Finding:
    if isinstance(told, Untold):
        return unknown(names.BLOCKED, told.reason, _ASK)
    missing = [name for name in _BLOCKS if not told.get(name)]
    hint = "block public access: then no mistake in a policy or an access list opens the bucket"
    return judged(
        names.BLOCKED, not missing, f"off: {', '.join(missing)}" if missing else "", hint, severity=Severity.WARNING
    )


def _at_rest(told: Told, settings: S3, *, encrypted: bool) -> Finding:
    if settings.encryption:
        return judged(names.AT_REST, True, f"asked for with each object: {settings.encryption}", "")
    if isinstance(told, Untold):
        return unknown(names.AT_REST, told.reason, _ASK, must=not encrypted)
    rules = [rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm") for rule in told.get("Rules", ())]
    detail = ", ".join(filter(None, rules)) or "no default encryption"
    hint = "set the bucket's default encryption, or `encryption` of this repository"
    severity = Severity.WARNING if encrypted else Severity.FAILURE
    return judged(names.AT_REST, bool(rules), detail, hint, severity=severity)

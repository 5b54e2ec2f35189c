"""The checks of a verification by name, and the rule that makes a verdict of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pgbackup.domain.model import Finding, Verdict, Verification

BYTES = "stored files match their checksums"
DECRYPT = "decrypts with today's keys"
DECODE = "dump decodes to the end"
MANIFEST_FILES = "files match the backup manifest"
RESTORE = "restore completes"
RECOVERY = "recovery reaches the marked point"
TABLES = "all tables restored"
CONTENT = "rows and contents equal the source"
UNCOMPARED = "every row can be read (there is no source to compare with)"
LARGE_OBJECTS = "large objects equal the source"
OBJECTS = "definitions equal the source"
FOREIGN_KEYS = "foreign keys hold"
INDEXES = "indexes are valid"
SEQUENCES = "sequences are not behind"
EXTENSIONS = "extensions are present"
ROLES = "roles are present"
MATERIALIZED_VIEWS = "materialized views are populated"
CHECKSUMS = "data checksums"
PAGES = "page checksums"
COLLATIONS = "collation versions"
APPLICATION = "application role connects"
QUERIES = "application queries answer in time"
LATEST = "newest archived WAL can be recovered"

Answer = tuple[bool, str, str]
"""(ok, detail, hint)"""
Check = Callable[[], Answer]


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Verified means that everything held; anything that did not is a rejection."""
    return Verdict.VERIFIED if all(finding.ok for finding in findings) else Verdict.REJECTED


def blames_capture(verification: Verification) -> bool:
    """Tell whether what was captured is rejected, with the bytes that were captured: then every copy is as bad."""
    whole = any(finding.name == BYTES and finding.ok for finding in verification.findings)
    return verification.verdict is Verdict.REJECTED and whole


def failures(findings: Iterable[Finding]) -> str:
    """Say in one line what did not hold."""
    return "; ".join(f"{finding.name}: {finding.detail}" for finding in findings if not finding.ok)


def remark(findings: Iterable[Finding]) -> str:
    """Say what a verdict does not vouch for, where that is not a matter of configuration."""
    alone = any(finding.name == UNCOMPARED for finding in findings)
    return "contents were not compared with a source: the dump was adopted, not taken by us" if alone else ""


def merged(parts: Iterable[Iterable[Finding]]) -> tuple[Finding, ...]:
    """Join the findings of several servers by name: all of them have to hold."""
    found: dict[str, Finding] = {}
    for finding in (one for part in parts for one in part):
        other = found.get(finding.name)
        if other is None:
            found[finding.name] = finding
        else:
            detail = "; ".join(text for text in (other.detail, finding.detail) if text)
            seconds = round(other.seconds + finding.seconds, 3)
            found[finding.name] = Finding(
                finding.name, other.ok and finding.ok, seconds, detail, other.hint or finding.hint
            )
    return tuple(found.values())


def advice(findings: Iterable[Finding]) -> str:
    """Say what did not hold, and in a line each what to do about it."""
    failed = [finding for finding in findings if not finding.ok]
    hints = (f"HINT: {finding.name}: {finding.hint}" for finding in failed if finding.hint)
    return "\n".join((failures(failed), *hints))


def timed(name: str, check: Check, *, clock: Callable[[], float]) -> Finding:
    """Run a check that answers (ok, detail, hint) and note how long it took."""
    start = clock()
    ok, detail, hint = check()
    return Finding(name, ok, round(clock() - start, 3), detail, "" if ok else hint)


def some(names: Iterable[str], *, most: int = 5) -> str:
    """List a few names and count the rest.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"

"""What people read of an audit, in Markdown: what does not hold first."""

from __future__ import annotations

from collections.abc import Sequence

from pgbackup.domain.model import Finding

_FINE = "ok"


def audit_text(name: str, findings: Sequence[Finding]) -> str:
    """Show the findings of one repository, or of this machine, with what to do about each."""
    bad = sorted((one for one in findings if not one.ok), key=lambda one: not one.fails)
    good = [one for one in findings if one.ok]
    failures = sum(one.fails for one in bad)
    rows = [
        ("finding", "", "what", "what to do"),
        ("---",) * 4,
        *((one.name, f"**{one.severity}**", one.detail, one.hint) for one in bad),
        *((one.name, _FINE, one.detail, "") for one in good),
    ]
    summary = f"**{name}**: {failures} failures, {len(bad) - failures} warnings or unknown, {len(good)} hold."
    return "\n".join([summary, "", *("| " + " | ".join(map(_plain, row)) + " |" for row in rows)])


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

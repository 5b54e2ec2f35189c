"""Verdicts as small write-once objects beside a backup: what a rebuilt catalog reads back."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Finding, Verdict, Verification


class AttestedFinding(BaseModel):
    """One finding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    ok: bool
    seconds: float
    detail: str
    hint: str


class Attestation(BaseModel):
    """One concluded verification of one copy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    backup_id: str
    repository: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    verdict: Verdict | None
    reason: str
    findings: tuple[AttestedFinding, ...]

    @classmethod
    def of(cls, verification: Verification) -> Self:
        """Attest a verification."""
        return cls(
            backup_id=verification.backup_id,
            repository=verification.repository,
            attempt=verification.attempt,
            started_at=verification.started_at,
            finished_at=verification.finished_at,
            verdict=verification.verdict,
            reason=verification.reason,
            findings=tuple(
                AttestedFinding(name=f.name, ok=f.ok, seconds=f.seconds, detail=f.detail, hint=f.hint)
                for f in verification.findings
            ),
        )

    def verification(self) -> Verification:
        """Return what was attested."""
        return Verification(
            backup_id=self.backup_id,
            repository=self.repository,
            attempt=self.attempt,
            started_at=self.started_at,
            finished_at=self.finished_at,
            verdict=self.verdict,
            reason=self.reason,
            findings=tuple(Finding(f.name, f.ok, f.seconds, f.detail, f.hint) for f in self.findings),
        )


def seal(attestation: Attestation) -> tuple[str, bytes]:
    """Return the object's name under the backup's directory, and its text; the name holds the text's digest."""
    text = attestation.model_dump_json(indent=1).encode() + b"\n"
    digest = sha256(text).hexdigest()[:16]
    return f"attest/verdict-{attestation.repository}-{attestation.attempt:04}-{digest}.json", text


def unseal(name: str, text: bytes) -> Attestation:
    """Read an attestation; raises RefusedError when it is not what its name says."""
    if sha256(text).hexdigest()[:16] not in name:
        raise RefusedError(f"{name} is damaged", hint="its verdict does not count: verify the backup again")
    try:
        return Attestation.model_validate_json(text)
    except ValidationError:
        raise RefusedError(f"{name} is not an attestation that this version reads") from None

"""All steps of a verification in one process."""

from __future__ import annotations

from pgbackup.domain.model import Verification
from pgbackup.domain.ports import Site
from pgbackup.postgres.connection import server_errors
from pgbackup.verify.attempt import discard, give_up, open_attempt
from pgbackup.verify.steps import check_contents, check_files, check_restore, conclude


def verify(site: Site, backup_id: str, repository: str) -> Verification:
    """Prove one copy of a backup; the verdict is in the result, in the catalog and beside the copy.

    Raises an error, and leaves the backup without a verdict, when this machine cannot judge.
    """
    attempt = open_attempt(site, backup_id, repository)
    try:
        with server_errors("the throw-away server"):
            findings = list(check_files(site, attempt))
            if all(finding.ok for finding in findings):
                findings += check_restore(site, attempt)
            if all(finding.ok for finding in findings):
                findings += check_contents(site, attempt)
        return conclude(site, attempt, findings)
    except BaseException as error:
        give_up(site, attempt, error)
        raise
    finally:
        discard(attempt)

"""Full database recovery: the newest verified full backup, restored and compared with its source as it was."""

from __future__ import annotations

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.rates import Rated
from pgbackup.domain.survey import show
from pgbackup.drill.trial import Trial
from pgbackup.recover.dumps import verified_backups
from pgbackup.restore.measure import record
from pgbackup.verify import (
    Attempt,
    check_contents,
    check_files,
    check_restore,
    conclude,
    discard,
    give_up,
    open_attempt,
)


def recover_everything(trial: Trial) -> bool:
    """Verify the backup once more, step by step: its verdict counts, and a backup that fails is rejected.

    True when it came to its end, whatever it found there.
    """
    manifest = newest_verified(trial)
    trial.subject = f"{manifest.id}: every database as of {show(manifest.backup_time)}"
    attempt = open_attempt(trial.site, manifest.id, trial.repository)
    try:
        came_to_end = _take_steps(trial, manifest, attempt)
        conclude(trial.site, attempt, trial.findings)
    except BaseException as error:
        give_up(trial.site, attempt, error)
        raise
    finally:
        discard(attempt)
    return came_to_end


def newest_verified(trial: Trial) -> Manifest:
    """Return the newest verified full backup; raises RefusedError when there is none."""
    manifest = next(verified_backups(trial.site, trial.cluster, trial.repository), None)
    if manifest is None:
        raise RefusedError(
            f"no verified full backup of {trial.cluster} is in {trial.repository}",
            hint=f"run {trial.cluster}_full_backup, and see why earlier ones were rejected: pgbackup list",
        )
    return manifest


def _take_steps(trial: Trial, manifest: Manifest, attempt: Attempt) -> bool:
    site, rates = trial.site, trial.rates()
    size = sum(database.bytes for database in manifest.databases)
    with trial.step("fetch and decrypt", manifest.stored_bytes / rates.fetch):
        trial.findings += check_files(site, attempt)
    restore: Rated = "restore"
    compare: Rated = "compare"
    for name, check, rate in ((restore, check_restore, rates.restore), (compare, check_contents, rates.compare)):
        if not all(finding.ok for finding in trial.findings):
            return False
        with trial.step(name, rates.start + size / rate):
            trial.findings += check(site, attempt)
        record(site, trial.cluster, trial.repository, name, size, trial.steps[-1].seconds)
    return True

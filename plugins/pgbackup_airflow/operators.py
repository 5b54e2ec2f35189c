"""Thin operators: each opens the Site, calls one verb or step, returns a small summary. No logic, no SQL, no argv."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.assembly import log_file
from pgbackup.capture import capture_incremental, capture_night, preflight, refuse
from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.findings import advice, failures
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Finding, Verdict
from pgbackup.domain.ports import Runner, Site
from pgbackup.postgres.connection import server_errors
from pgbackup.verify import (
    Attempt,
    attempt_of,
    check_contents,
    check_files,
    check_restore,
    conclude,
    discard,
    give_up,
    open_attempt,
    pending,
)
from pgbackup_airflow.failures import as_airflow_failures
from pgbackup_airflow.hook import PgBackupHook


class ProtocolOperator(BaseOperator):
    """What all operators share: the Site of this run, the log file, children that end with the task."""

    ui_color = "#e8f3ff"

    def __init__(self, *, cluster: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster
        self._runner: Runner | None = None

    @contextlib.contextmanager
    def site(self, context: Context) -> Iterator[Site]:
        """Open the Site for one execution; permanent errors fail the task at once."""
        run = context["dag_run"]
        with as_airflow_failures():
            site = PgBackupHook(owner=f"{run.dag_id}/{run.run_id}", cluster=self.cluster).site()
            self._runner = site.runner
            name = f"{self.cluster}_{self.task_id}"
            with log_file(site.settings.paths.logs, name, datetime.now(UTC)), contextlib.ExitStack() as stack:
                stack.callback(site.runner.terminate)
                yield site

    def on_kill(self) -> None:
        """End what the task started; its directory is then cleaned by the error, or by the next run."""
        if self._runner is not None:
            self._runner.terminate()


class PreflightOperator(ProtocolOperator):
    """Check rights, versions, space, keys and clocks before anything starts."""

    def execute(self, context: Context) -> int:
        """Return the number of checks; fails with every one that did not hold."""
        refuse_unknown(context, allowed=())
        with self.site(context) as site:
            findings = preflight(site, self.cluster)
            if not all(finding.ok for finding in findings):
                reason = advice(findings)
                refuse(site, self.cluster, reason)
                # Not AirflowFailException: a server that does not answer now may answer at the next try.
                raise PreflightFailed(reason)
        return len(findings)


class PreflightFailed(Exception):  # noqa: N818 - reads as what happened
    """A backup cannot start; the message lists why and what to do."""


class BackupOperator(ProtocolOperator):
    """Take the night's backups: the full one (every database and the globals) and the physical base."""

    def __init__(self, *, asset: Asset, **kwargs: Any) -> None:
        super().__init__(outlets=[asset], **kwargs)
        self.asset = asset

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return what to verify: each backup's id, repository, size, and the number of its next verification."""
        with self.site(context) as site:
            summaries: list[dict[str, Any]] = [
                {
                    "backup_id": manifest.id,
                    "repository": site.local.name,
                    "bytes": manifest.stored_bytes,
                    "seconds": (manifest.finished_at - manifest.started_at).total_seconds(),
                    "attempt": len(site.catalog.verifications(manifest.id)) + 1,
                }
                for manifest in self.take(site)
            ]
        event: Any = context["outlet_events"][self.asset]
        event.extra = {"backups": summaries}
        return summaries

    def take(self, site: Site) -> tuple[Manifest, ...]:
        """Take the backups."""
        return capture_night(site, self.cluster)


class IncrementalBackupOperator(BackupOperator):
    """Take what changed since the last physical backup, or a base where no incremental can stand."""

    def take(self, site: Site) -> tuple[Manifest, ...]:
        """Take the backup."""
        return (capture_incremental(site, self.cluster),)


def verification_run(captured: dict[str, Any]) -> dict[str, Any]:
    """Return what triggers the verification of one captured backup; the attempt makes a later try another run."""
    copy = {"backup_id": captured["backup_id"], "repository": captured["repository"]}
    return {"trigger_run_id": f"verify__{copy['backup_id']}__{copy['repository']}__{captured['attempt']}", "conf": copy}


def queue_verifications(cluster: str, backup: BackupOperator) -> Any:
    """Trigger the verification of each backup that a task took."""
    return TriggerDagRunOperator.partial(
        task_id="verify",
        task_display_name="queue verifications",
        trigger_dag_id=f"{cluster}_verify_backup",
        logical_date=None,
        skip_when_already_exists=True,
        map_index_template="{{ task.conf.backup_id }}",
    ).expand_kwargs(backup.output.map(verification_run))


class ChooseCopiesOperator(ProtocolOperator):
    """Say which copies this run proves: the one asked for, else what was missed and the one proved longest ago."""

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Return a list of {backup_id, repository}, oldest backup first."""
        refuse_unknown(context, allowed=("backup_id", "repository"))
        params = context["params"]
        with self.site(context) as site:
            if params["backup_id"]:
                refuse_foreign(params["backup_id"], self.cluster)
                chosen = [(params["backup_id"], params["repository"] or site.local.name)]
                known(site, *chosen[0])
            else:
                chosen = sorted(pending(site, self.cluster))
        for backup_id, repository in chosen:
            self.log.info("to verify: %s in %s", backup_id, repository)
        return [{"backup_id": backup_id, "repository": repository} for backup_id, repository in chosen]


def known(site: Site, backup_id: str, repository: str) -> None:
    """Refuse a copy that does not exist, before anything is green."""
    backup = site.catalog.backup(backup_id)
    copies = [copy.repository for copy in backup.copies] if backup else []
    if repository not in copies:
        where = f"its copies are in: {', '.join(copies)}" if copies else "`pgbackup list` shows what there is"
        raise AirflowFailException(f"no backup {backup_id} in repository {repository}\nHINT: {where}")


class VerificationOperator(ProtocolOperator):
    """One step of a verification. A finding that does not hold rejects the backup and fails the task at once."""

    template_fields: Sequence[str] = ("backup_id", "repository", "attempt")

    def __init__(self, *, backup_id: Any, repository: Any, attempt: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backup_id = backup_id
        self.repository = repository
        self.attempt = attempt

    def execute(self, context: Context) -> int:
        """Return the attempt's number, which the next step needs."""
        with self.site(context) as site:
            attempt = self.opened(site)
            try:
                with server_errors("the throw-away server"):
                    findings = self.step(site, attempt)
            except PgBackupError as error:
                give_up(site, attempt, error)
                raise
            if not all(finding.ok for finding in findings):
                conclude(site, attempt, findings)
                raise AirflowFailException(
                    f"{attempt.backup_id} in {attempt.repository} is rejected: {failures(findings)}"
                )
            self.completed(site, attempt)
        return attempt.number

    def step(self, site: Site, attempt: Attempt) -> tuple[Finding, ...]:
        """Take the step; return its findings."""
        raise NotImplementedError

    def opened(self, site: Site) -> Attempt:
        """Return the attempt that the first step opened."""
        return attempt_of(site, self.backup_id, self.repository, int(self.attempt))

    def completed(self, site: Site, attempt: Attempt) -> None:
        """Do what follows when every finding of the step held."""


class CheckFilesOperator(VerificationOperator):
    """Fetch the copy, check every byte, decrypt it, decode its dumps to the end."""

    def step(self, site: Site, attempt: Attempt) -> tuple[Finding, ...]:
        """Take the step."""
        return check_files(site, attempt)

    def opened(self, site: Site) -> Attempt:
        """Open the attempt."""
        return open_attempt(site, self.backup_id, self.repository)


class RestoreOperator(VerificationOperator):
    """Restore globals and databases into a throw-away server."""

    def step(self, site: Site, attempt: Attempt) -> tuple[Finding, ...]:
        """Take the step."""
        return check_restore(site, attempt)


class IntegrityCheckOperator(VerificationOperator):
    """Compare the restored databases with their source; all findings held means: verified."""

    def step(self, site: Site, attempt: Attempt) -> tuple[Finding, ...]:
        """Take the step."""
        return check_contents(site, attempt)

    def completed(self, site: Site, attempt: Attempt) -> None:
        """Conclude over the findings of all steps, as the catalog has them."""
        recorded = site.catalog.verification(attempt.backup_id, repository=attempt.repository, attempt=attempt.number)
        findings = recorded.findings if recorded else ()
        verification = conclude(site, attempt, findings)
        if verification.verdict is not Verdict.VERIFIED:
            raise AirflowFailException(f"{attempt.backup_id} is not verified: {verification.reason}")


class DiscardOperator(VerificationOperator):
    """Remove the decrypted files and the throw-away server, whatever happened."""

    def execute(self, context: Context) -> int:
        """Return how many attempts were discarded; one whose first step failed is known to the catalog alone."""
        with self.site(context) as site:
            if self.attempt in {None, "None", ""}:
                copy = (self.backup_id, self.repository)
                known = [
                    one for one in site.catalog.verifications_of(site.owner) if (one.backup_id, one.repository) == copy
                ]
                attempts = [attempt_of(site, *copy, one.attempt) for one in known]
            else:
                attempts = [self.opened(site)]
            for attempt in attempts:
                discard(attempt)
        return len(attempts)


def refuse_foreign(backup_id: str, cluster: str) -> None:
    """Refuse another cluster's backup: who may run this DAG may not be allowed to run that one's."""
    if BackupId.parse(backup_id).cluster != cluster:
        raise ConfigurationError(
            f"{backup_id} is not a backup of {cluster}", hint="`pgbackup list` shows what there is, by cluster"
        )


def refuse_unknown(context: Context, *, allowed: Sequence[str]) -> None:
    """Fail a run whose configuration has keys that nobody reads: Airflow itself accepts them silently."""
    unknown = sorted(set(context["dag_run"].conf or {}) - set(allowed))
    if unknown:
        keys = ", ".join(repr(key)[:60] for key in unknown)
        raise AirflowFailException(
            f"unknown keys in the run's configuration: {keys}\nHINT: {', '.join(allowed) or 'none'} can be given"
        )

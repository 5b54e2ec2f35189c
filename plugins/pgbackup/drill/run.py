"""One drill from beginning to end: recover, answer the checklist, record it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pgbackup.domain.drill import RTO, Drill, Scenario, checklist, seal_drill
from pgbackup.domain.errors import ConfigurationError, PermanentError, PgBackupError, RefusedError
from pgbackup.domain.findings import Answer
from pgbackup.domain.model import Finding
from pgbackup.domain.ports import Site
from pgbackup.drill.full import recover_everything
from pgbackup.drill.moment import recover_moment
from pgbackup.drill.table import recover_one_table
from pgbackup.drill.trial import Trial
from pgbackup.postgres.connection import server_errors

log = logging.getLogger(__name__)

_SCENARIOS: dict[Scenario, Callable[[Trial], bool]] = {
    Scenario.FULL: recover_everything,
    Scenario.POINT_IN_TIME: recover_moment,
    Scenario.TABLE: recover_one_table,
}


def drill(site: Site, cluster: str, scenario: Scenario) -> Drill:
    """Try a scenario in the spool, touching nothing of production; the result is in the catalog and the repository.

    A drill that fails is a result, too: one of its findings says why. What a killed one left is removed. Raises a
    TransientError, and records nothing, where trying again may help.
    """
    started = site.clock()
    trial = Trial(site, cluster)
    stopped: tuple[str, str] | None = None
    try:
        with server_errors("a server of the drill"):
            came_to_end = _SCENARIOS[scenario](trial)
        if came_to_end:
            trial.ask(RTO, lambda: _recovery_time(trial))
    except ConfigurationError:
        raise
    except RefusedError as error:
        trial.findings.append(Finding(trial.about, False, 0.0, _text(error), error.hint or ""))
    except PermanentError as error:  # this machine cannot judge: that speaks neither for the backup nor against it
        stopped = _text(error), error.hint or ""
    done = Drill(
        cluster=cluster,
        scenario=scenario,
        subject=trial.subject or "nothing was found to recover",
        started_at=started,
        finished_at=site.clock(),
        rpo_seconds=trial.rpo_seconds,
        steps=tuple(trial.steps),
        findings=checklist(trial.findings, stopped),
        owner=site.owner,
    )
    _keep(site, done)
    return done


def _recovery_time(trial: Trial) -> Answer:
    """The steps together, checks included."""
    allowed = trial.site.settings.objectives.rto.total_seconds()
    seconds, predicted = (sum(getattr(step, name) for step in trial.steps) for name in ("seconds", "predicted"))
    detail = f"{seconds:.1f} s of {allowed:.0f} s allowed; predicted {predicted:.1f} s"
    return seconds <= allowed, detail, "which step takes the time? more jobs, a newer base, or another objective"


def _text(error: PgBackupError) -> str:
    return ": ".join(filter(None, (error.message, error.detail)))


def _keep(site: Site, done: Drill) -> None:
    for finding in done.findings:
        mark = "ok" if finding.ok else "FAILED"
        log.log(logging.INFO if finding.ok else logging.ERROR, "%s: %s %s", finding.name, mark, finding.detail)
    site.catalog.drilled(done)
    key, text = seal_drill(done)
    try:
        with site.local.create(key) as sink:
            sink.write(text)
    except PgBackupError as error:
        log.warning("the drill is not recorded in %s: %s", site.local.name, error)

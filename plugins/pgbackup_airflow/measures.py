"""What the watch measured, by Airflow's own metrics: StatsD or OpenTelemetry, whichever it is configured for."""

from __future__ import annotations

from collections.abc import Iterable

from airflow.sdk.observability import stats

from pgbackup.domain.metrics import Sample


def emit(samples: Iterable[Sample]) -> None:
    """Set a gauge for each sample: ``pgbackup_rpo_seconds`` is ``pgbackup.rpo_seconds``, its labels are tags."""
    for one in samples:
        stats.gauge(one.name.replace("_", ".", 1), one.value, tags=dict(one.labels))

"""What the watch measured, by Airflow's own metrics: StatsD or OpenTelemetry, whichever it is configured for."""

from __future__ import annotations

from collections.abc import Iterable

from airflow.sdk.observability import stats

from pgbackup.domain.metrics import Sample


def emit(samples: Iterable[Sample]) -> None:
    """Set a gauge for each sample: ``pgbackup_rpo_seconds`` is ``pgbackup.rpo_seconds``, its labels are tags.

    Of a tag's value StatsD takes letters, digits, dots and dashes: the rest becomes underscores.
    """
    for one in samples:
        tags = {name: stats.normalize_name_for_stats(value, log_warning=False) for name, value in one.labels}
        stats.gauge(one.name.replace("_", ".", 1), one.value, tags=tags)

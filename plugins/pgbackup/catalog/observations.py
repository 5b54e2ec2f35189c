"""What was seen and measured: the watch's findings, what can be reached, the rates of restores, the drills."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from pgbackup.catalog.session import Sessions
from pgbackup.domain.drill import Drill, drill_document, drill_of
from pgbackup.domain.metrics import Sample
from pgbackup.domain.model import Finding, Measurement, Message, Unsent, Watched
from pgbackup.domain.prospect import Prospect, prospect_document, prospect_of

_MEASUREMENTS = 100
# A relapse fails again within a day of having recovered.
_SAW = (
    "INSERT INTO watch AS w (cluster, name, ok, detail, hint, owner, since, seen_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (cluster, name) DO UPDATE SET"
    " (ok, detail, hint, owner, seen_at, since, relapses, recovered_at) = (excluded.ok, excluded.detail, excluded.hint,"
    " excluded.owner, excluded.seen_at, CASE WHEN w.ok = excluded.ok THEN w.since ELSE excluded.since END,"
    " CASE WHEN excluded.ok OR NOT w.ok THEN w.relapses"
    " WHEN excluded.seen_at - w.recovered_at < interval '1 day' THEN w.relapses + 1 ELSE 0 END,"
    " CASE WHEN excluded.ok AND NOT w.ok THEN excluded.seen_at ELSE w.recovered_at END)"
)


class Observations(Sessions):
    """The part of the catalog that is not about backups."""

    def saw(self, cluster: str, findings: Sequence[Finding], *, owner: str, now: datetime) -> None:
        """Record what the watch found; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                _SAW,
                [(cluster, one.name, one.ok, one.detail, one.hint, owner, now, now) for one in findings],
            )

    def watched(self, cluster: str) -> tuple[Watched, ...]:
        """Return the newest state of every watched name; see ports.Catalog."""
        with self._transaction() as connection, connection.cursor(row_factory=class_row(Watched)) as cursor:
            cursor.execute(
                "SELECT name, ok, detail, hint, owner, since, seen_at, told_ok, relapses FROM watch WHERE cluster = %s"
                " ORDER BY ok, name",
                (cluster,),
            )
            return tuple(cursor.fetchall())

    def told(self, watched: Sequence[Watched], *, cluster: str) -> None:
        """Record that people heard of these states; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE watch SET told_ok = %s WHERE (cluster, name) = (%s, %s)",
                [(one.ok, cluster, one.name) for one in watched],
            )

    def forget(self, cluster: str, names: Sequence[str]) -> None:
        """Drop what is not watched any more; see ports.Catalog."""
        self._write("DELETE FROM watch WHERE cluster = %s AND name = ANY (%s)", (cluster, list(names)))

    def keep(self, message: Message, *, channel: str, error: str, now: datetime) -> None:
        """Keep a message that could not be sent; see ports.Catalog."""
        self._write(
            "INSERT INTO unsent (cluster, channel, subject, html, link, kept_at, error)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (message.cluster, channel, message.subject, message.html, message.link, now, error),
        )

    def unsent(self) -> tuple[Unsent, ...]:
        """Return the messages that are kept, oldest first; see ports.Catalog."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT * FROM unsent ORDER BY number").fetchall()
        return tuple(
            Unsent(
                row["number"],
                row["channel"],
                Message(row["cluster"], row["subject"], row["html"], row["link"]),
                row["kept_at"],
                row["error"],
            )
            for row in rows
        )

    @contextlib.contextmanager
    def sending(self, number: int) -> Iterator[bool]:
        """Hold a kept message while it is sent; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction():
            row = connection.execute(
                "SELECT number FROM unsent WHERE number = %s FOR UPDATE SKIP LOCKED", (number,)
            ).fetchone()
            yield row is not None
            if row is not None:
                connection.execute("DELETE FROM unsent WHERE number = %s", (number,))

    def gauged(self, cluster: str, samples: Sequence[Sample], *, now: datetime) -> None:
        """Record what the watch measured; see ports.Catalog."""
        self._write(
            "INSERT INTO gauge (cluster, seen_at, samples) VALUES (%s, %s, %s) ON CONFLICT (cluster)"
            " DO UPDATE SET (seen_at, samples) = (excluded.seen_at, excluded.samples)",
            (cluster, now, Jsonb([[one.name, one.labels, one.value] for one in samples])),
        )

    def gauges(self, cluster: str) -> tuple[Sample, ...]:
        """Return what the watch measured last; see ports.Catalog."""
        with self._transaction() as connection:
            row = connection.execute("SELECT samples FROM gauge WHERE cluster = %s", (cluster,)).fetchone()
        found = row["samples"] if row else []
        return tuple(Sample(name, tuple((key, text) for key, text in labels), value) for name, labels, value in found)

    def measured(self, cluster: str, repository: str, measurement: Measurement) -> None:
        """Record how long a step took; see ports.Catalog."""
        series = (cluster, repository, measurement.step)
        with self._transaction() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO measurement (cluster, repository, step, bytes, seconds, at)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (*series, measurement.bytes, measurement.seconds, measurement.at),
            )
            connection.execute(
                "DELETE FROM measurement WHERE id IN (SELECT id FROM measurement"
                " WHERE (cluster, repository, step) = (%s, %s, %s) ORDER BY at DESC, id DESC OFFSET %s)",
                (*series, _MEASUREMENTS),
            )

    def measurements(self, cluster: str, repository: str) -> tuple[Measurement, ...]:
        """Return what was measured, newest first; see ports.Catalog."""
        with self._transaction() as connection, connection.cursor(row_factory=class_row(Measurement)) as cursor:
            cursor.execute(
                "SELECT step, bytes, seconds, at FROM measurement WHERE (cluster, repository) = (%s, %s)"
                " ORDER BY at DESC, id DESC",
                (cluster, repository),
            )
            return tuple(cursor.fetchall())

    def drilled(self, drill: Drill) -> None:
        """Record a drill; see ports.Catalog."""
        values: dict[str, Any] = drill_document(drill)
        self._write(
            "INSERT INTO drill (cluster, scenario, subject, started_at, finished_at, ok, rto_seconds, rpo_seconds,"
            " predicted_seconds, steps, findings, owner) VALUES (%(cluster)s, %(scenario)s, %(subject)s,"
            " %(started_at)s, %(finished_at)s, %(ok)s, %(rto_seconds)s, %(rpo_seconds)s, %(predicted_seconds)s,"
            " %(steps)s, %(findings)s, %(owner)s) ON CONFLICT DO NOTHING",
            {
                **values,
                "ok": drill.ok,
                "rto_seconds": drill.rto_seconds,
                "predicted_seconds": drill.predicted_seconds,
                "steps": Jsonb(values["steps"]),
                "findings": Jsonb(values["findings"]),
            },
        )

    def drills(self, cluster: str) -> tuple[Drill, ...]:
        """Return a cluster's drills, newest first; see ports.Catalog."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT cluster, scenario, subject, started_at, finished_at, rpo_seconds, steps, findings, owner"
                " FROM drill WHERE cluster = %s ORDER BY started_at DESC, scenario",
                (cluster,),
            ).fetchall()
        return tuple(map(drill_of, rows))

    def looked(self, prospect: Prospect) -> None:
        """Record what can be recovered; see ports.Catalog."""
        self._write(
            "INSERT INTO prospect (cluster, seen_at, document) VALUES (%s, %s, %s) ON CONFLICT (cluster)"
            " DO UPDATE SET (seen_at, document) = (excluded.seen_at, excluded.document)",
            (prospect.cluster, prospect.seen_at, Jsonb(prospect_document(prospect))),
        )

    def prospect(self, cluster: str) -> Prospect | None:
        """Return what can be recovered; see ports.Catalog."""
        with self._transaction() as connection:
            row = connection.execute("SELECT document FROM prospect WHERE cluster = %s", (cluster,)).fetchone()
        return prospect_of(row["document"]) if row else None

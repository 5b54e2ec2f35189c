"""The catalog in PostgreSQL: backups and their verifications. Each call is one short transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import psycopg
from psycopg.rows import DictRow, class_row

from pgbackup.catalog.listing import Listings
from pgbackup.catalog.observations import Observations
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.findings import BYTES
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.model import Backup, Copy, CopyState, Finding, Kind, State, Verdict, Verification, WalCopy
from pgbackup.domain.settings import LOCAL


class PostgresCatalog(Observations, Listings):
    """See ports.Catalog."""

    def begin(self, backup_id: str, *, cluster: str, kind: Kind, owner: str, now: datetime) -> None:
        """Record a start; see ports.Catalog."""
        self._write(
            "INSERT INTO backup_log (id, cluster, kind, state, owner, started_at)"
            " VALUES (%s, %s, %s, 'running', %s, %s)",
            (backup_id, cluster, kind, owner, now),
        )

    def captured(self, manifest: Manifest, *, repository: str, now: datetime) -> None:
        """Record a committed backup and its first copy; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction():
            connection.execute(
                "UPDATE backup_log SET state = 'captured', method = %(method)s, parent = %(parent)s,"
                " backup_time = %(backup_time)s, finished_at = %(finished_at)s, bytes = %(bytes)s,"
                " database_bytes = %(database_bytes)s, error = NULL, manifest = %(manifest)s WHERE id = %(id)s",
                _columns(manifest),
            )
            _copy(connection, manifest.id, repository, CopyState.STORED, now)

    def failed(self, backup_id: str, *, error: str, now: datetime) -> None:
        """Record a failure; see ports.Catalog."""
        self._write(
            "UPDATE backup_log SET state = 'failed', error = %s, finished_at = %s WHERE id = %s AND state = 'running'",
            (error, now, backup_id),
        )

    def backup(self, backup_id: str) -> Backup | None:
        """Return one backup; see ports.Catalog."""
        found = self._backups("id = %s", (backup_id,))
        return found[0] if found else None

    def backups(self, cluster: str | None = None, *, states: frozenset[State] | None = None) -> tuple[Backup, ...]:
        """Return backups, newest first; see ports.Catalog."""
        return self._backups(
            "(%s::text IS NULL OR cluster = %s) AND (%s::text[] IS NULL OR state = ANY (%s))",
            (cluster, cluster, *(2 * (None if states is None else [str(state) for state in states],))),
        )

    def backups_of(self, owner: str) -> tuple[Backup, ...]:
        """Return what one run captured or tried to; see ports.Catalog."""
        return self._backups("owner = %s", (owner,))

    def verifications_of(self, owner: str) -> tuple[Verification, ...]:
        """Return what one run verified or tried to; see ports.Catalog."""
        return self._verifications("owner = %s", (owner,))

    def copies(self, backup_id: str) -> tuple[Copy, ...]:
        """Return a backup's copies; see ports.Catalog."""
        backup = self.backup(backup_id)
        return backup.copies if backup else ()

    def copied(self, backup_id: str, *, repository: str, now: datetime) -> None:
        """Record a copy; see ports.Catalog."""
        self._write(
            "INSERT INTO backup_copy AS c (backup_id, repository, state, stored_at) VALUES (%s, %s, 'stored', %s)"
            " ON CONFLICT (backup_id, repository) DO UPDATE SET (state, stored_at, verified_at) ="
            " ('stored', excluded.stored_at, NULL) WHERE c.state NOT IN ('stored', 'verified')",
            (backup_id, repository, now),
        )

    def wal_copied(
        self, cluster: str, repository: str, *, whole_at: datetime | None, missing: int, error: str, now: datetime
    ) -> None:
        """Record how far a repository is with the WAL; see ports.Catalog."""
        self._write(
            "INSERT INTO wal_copy AS c (cluster, repository, whole_at, missing, error, seen_at)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (cluster, repository) DO UPDATE SET"
            " (whole_at, missing, error, seen_at) = (coalesce(excluded.whole_at, c.whole_at), excluded.missing,"
            " excluded.error, excluded.seen_at)",
            (cluster, repository, whole_at, missing, error, now),
        )

    def wal_copies(self, cluster: str) -> tuple[WalCopy, ...]:
        """Return how far each repository is with the WAL; see ports.Catalog."""
        with self._transaction() as connection, connection.cursor(row_factory=class_row(WalCopy)) as cursor:
            cursor.execute(
                "SELECT repository, whole_at, missing, error, seen_at FROM wal_copy WHERE cluster = %s"
                " ORDER BY repository",
                (cluster,),
            )
            return tuple(cursor.fetchall())

    def begin_verification(self, backup_id: str, *, repository: str, owner: str, now: datetime) -> int:
        """Open an attempt, or take up the same owner's unfinished one; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction():
            known = connection.execute("SELECT id FROM backup_log WHERE id = %s FOR UPDATE", (backup_id,)).fetchone()
            if known is None:
                raise RefusedError(f"no backup {backup_id} in the catalog", hint="`pgbackup list` shows what there is")
            row = connection.execute(
                "SELECT attempt FROM verification WHERE backup_id = %s AND repository = %s AND owner = %s"
                " AND verdict IS NULL ORDER BY attempt DESC LIMIT 1",
                (backup_id, repository, owner),
            ).fetchone()
            if row is not None:
                connection.execute(
                    "UPDATE verification SET finished_at = NULL, reason = ''"
                    " WHERE (backup_id, repository, attempt) = (%s, %s, %s)",
                    (backup_id, repository, row["attempt"]),
                )
                return int(row["attempt"])
            row = connection.execute(
                "INSERT INTO verification (backup_id, repository, attempt, owner, started_at)"
                " SELECT %s, %s, 1 + coalesce(max(attempt), 0), %s, %s FROM verification"
                " WHERE backup_id = %s AND repository = %s RETURNING attempt",
                (backup_id, repository, owner, now, backup_id, repository),
            ).fetchone()
            return int(row["attempt"]) if row else 0

    def found(self, backup_id: str, *, repository: str, attempt: int, step: str, findings: Sequence[Finding]) -> None:
        """Record a step's findings; see ports.Catalog."""
        key = (backup_id, repository, attempt, step)
        with self._transaction() as connection, connection.transaction():
            connection.execute(
                "DELETE FROM finding WHERE (backup_id, repository, attempt, step) = (%s, %s, %s, %s)", key
            )
            _insert_findings(connection, key, findings)

    def conclude(
        self,
        backup_id: str,
        *,
        repository: str,
        attempt: int,
        verdict: Verdict | None,
        reason: str,
        now: datetime,
    ) -> None:
        """Close an attempt; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction():
            connection.execute(
                "UPDATE verification SET finished_at = %s, verdict = %s, reason = %s"
                " WHERE (backup_id, repository, attempt) = (%s, %s, %s)",
                (now, verdict, reason, backup_id, repository, attempt),
            )
            _apply_verdict(connection, (backup_id, repository, attempt), verdict, now)

    def verification(self, backup_id: str, *, repository: str, attempt: int | None = None) -> Verification | None:
        """Return an attempt, the latest by default; see ports.Catalog."""
        for found in self.verifications(backup_id):
            if found.repository == repository and attempt in {None, found.attempt}:
                return found
        return None

    def verifications(self, backup_id: str) -> tuple[Verification, ...]:
        """Return every attempt on a backup, newest first; see ports.Catalog."""
        return self._verifications("backup_id = %s", (backup_id,))

    def register(
        self,
        manifest: Manifest,
        *,
        repository: str,
        copy: CopyState,
        verifications: Sequence[Verification],
        now: datetime,
    ) -> None:
        """Record a backup that a repository holds; see ports.Catalog. What is known already is not changed."""
        with self._transaction() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO backup_log (id, cluster, kind, method, state, parent, owner, backup_time, started_at,"
                " finished_at, bytes, database_bytes, manifest) VALUES (%(id)s, %(cluster)s, %(kind)s, %(method)s,"
                " 'captured', %(parent)s, 'rebuilt', %(backup_time)s, %(started_at)s, %(finished_at)s, %(bytes)s,"
                " %(database_bytes)s, %(manifest)s) ON CONFLICT (id) DO NOTHING",
                _columns(manifest),
            )
            is_new = _copy(connection, manifest.id, repository, copy, now)
            for attempt in verifications:
                inserted = connection.execute(
                    "INSERT INTO verification (backup_id, repository, attempt, owner, started_at, finished_at, verdict,"
                    " reason) VALUES (%s, %s, %s, 'rebuilt', %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING attempt",
                    (
                        manifest.id,
                        attempt.repository,
                        attempt.attempt,
                        attempt.started_at,
                        attempt.finished_at,
                        attempt.verdict,
                        attempt.reason,
                    ),
                ).fetchone()
                if inserted is not None:
                    step = (manifest.id, attempt.repository, attempt.attempt, "attested")
                    _insert_findings(connection, step, attempt.findings)
                if inserted is not None or (is_new and attempt.repository == repository):  # read elsewhere before
                    key = (manifest.id, attempt.repository, attempt.attempt)
                    _apply_verdict(connection, key, attempt.verdict, attempt.finished_at)
            if manifest.parent is not None:
                _reject_children(connection, manifest.parent)

    def expire(self, backup_id: str, *, repository: str) -> None:
        """Record that a copy is deleted; see ports.Catalog."""
        with self._transaction() as connection, connection.transaction():
            connection.execute(
                "UPDATE backup_copy SET state = 'expired' WHERE (backup_id, repository) = (%s, %s)",
                (backup_id, repository),
            )
            connection.execute(
                "UPDATE backup_log AS b SET state = 'expired' WHERE id = %s"
                " AND state IN ('captured', 'verified', 'rejected')"
                " AND NOT EXISTS (SELECT FROM backup_copy AS c WHERE c.backup_id = b.id AND c.state <> 'expired')",
                (backup_id,),
            )

    def _backups(self, condition: str, arguments: tuple[object, ...]) -> tuple[Backup, ...]:
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT b.*, coalesce((SELECT jsonb_agg(to_jsonb(c) ORDER BY c.repository) FROM backup_copy AS c"  # noqa: S608
                f" WHERE c.backup_id = b.id), '[]') AS copies FROM backup_log AS b WHERE {condition}"
                " ORDER BY b.started_at DESC, b.id DESC",
                arguments,
            ).fetchall()
        return tuple(_backup(row) for row in rows)

    def _verifications(self, condition: str, arguments: tuple[object, ...]) -> tuple[Verification, ...]:
        with self._transaction() as connection:
            attempts = connection.execute(
                f"SELECT * FROM verification WHERE {condition} ORDER BY started_at DESC, attempt DESC",  # noqa: S608
                arguments,
            ).fetchall()
            findings = connection.execute(
                "SELECT f.* FROM finding AS f JOIN verification AS v USING (backup_id, repository, attempt)"  # noqa: S608
                f" WHERE v.{condition} ORDER BY f.number",
                arguments,
            ).fetchall()
        return tuple(_verification(attempt, findings) for attempt in attempts)


def _columns(manifest: Manifest) -> dict[str, object]:
    return {
        "id": manifest.id,
        "cluster": manifest.cluster,
        "kind": manifest.kind,
        "method": manifest.method,
        "parent": manifest.parent,
        "backup_time": manifest.backup_time,
        "started_at": manifest.started_at,
        "finished_at": manifest.finished_at,
        "bytes": manifest.stored_bytes,
        "database_bytes": sum(database.bytes for database in manifest.databases),
        "manifest": manifest.model_dump_json(),
    }


def _copy(
    connection: psycopg.Connection[DictRow], backup_id: str, repository: str, state: CopyState, now: datetime
) -> bool:
    """Record a copy; tell whether it was unknown."""
    done = connection.execute(
        "INSERT INTO backup_copy (backup_id, repository, state, stored_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (backup_id, repository) DO NOTHING",
        (backup_id, repository, state, now),
    )
    return done.rowcount > 0


def _insert_findings(
    connection: psycopg.Connection[DictRow], key: tuple[str, str, int, str], findings: Sequence[Finding]
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO finding (backup_id, repository, attempt, step, name, ok, seconds, detail, hint)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [(*key, found.name, found.ok, found.seconds, found.detail, found.hint) for found in findings],
        )


def _apply_verdict(
    connection: psycopg.Connection[DictRow],
    attempt: tuple[str, str, int],
    verdict: Verdict | None,
    now: datetime | None,
) -> None:
    """Move the copy's and the backup's state. One verified copy proves the capture; a damaged copy beside it, or beside
    the one it was copied from and that nobody has judged yet, is copied again, so it doesn't reject the backup. Nor
    does one whose bytes are not those that were captured, beside any copy that nobody has judged. What stands on a
    rejected backup is rejected with it. Verdicts go along with copies: that of a repository which the catalog knows no
    copy in (it is being rebuilt from another one) judges the capture too.
    """
    if verdict is None:
        return
    backup_id, repository, _ = attempt
    of_capture = connection.execute(
        "SELECT FROM finding WHERE (backup_id, repository, attempt, name) = (%s, %s, %s, %s) AND ok",
        (*attempt, BYTES),
    ).fetchone()
    copy_state = CopyState.VERIFIED if verdict is Verdict.VERIFIED else CopyState.DAMAGED
    known = connection.execute(
        "SELECT state FROM backup_copy WHERE (backup_id, repository) = (%s, %s) FOR UPDATE", (backup_id, repository)
    ).fetchone()
    if known["state"] == CopyState.EXPIRED if known else verdict is Verdict.REJECTED and of_capture is None:
        return  # deleted while it was verified; or it says nothing of the copies that there are
    connection.execute(
        "UPDATE backup_copy SET state = %s, verified_at = CASE WHEN %s = 'verified' THEN %s ELSE verified_at END"
        " WHERE (backup_id, repository) = (%s, %s)",
        (copy_state, verdict, now, backup_id, repository),
    )
    connection.execute(
        "UPDATE backup_log SET state = CASE WHEN EXISTS (SELECT FROM backup_copy AS c"
        " WHERE c.backup_id = backup_log.id AND c.state = 'verified') OR EXISTS (SELECT FROM verification AS v"
        " LEFT JOIN backup_copy AS c USING (backup_id, repository) WHERE v.backup_id = backup_log.id"
        " AND c.backup_id IS NULL AND v.verdict = 'verified') THEN 'verified' WHEN NOT EXISTS (SELECT"
        " FROM backup_log AS p WHERE p.id = backup_log.parent AND p.state = 'rejected') AND EXISTS (SELECT"
        " FROM backup_copy AS c WHERE c.backup_id = backup_log.id AND c.state = 'stored' AND (%s OR c.repository = %s))"
        " THEN 'captured' ELSE 'rejected' END"
        " WHERE id = %s AND state IN ('captured', 'verified', 'rejected')",
        (of_capture is None, LOCAL, backup_id),
    )
    _reject_children(connection, backup_id)


def _reject_children(connection: psycopg.Connection[DictRow], backup_id: str) -> None:
    """Reject what stands on a rejected backup."""
    connection.execute(
        "WITH RECURSIVE rejected AS (SELECT id FROM backup_log WHERE id = %s AND state = 'rejected'"
        " UNION SELECT b.id FROM backup_log AS b JOIN rejected AS r ON b.parent = r.id)"
        " UPDATE backup_log SET state = 'rejected' WHERE id IN (SELECT id FROM rejected)"
        " AND state IN ('captured', 'verified')",
        (backup_id,),
    )


def _backup(row: DictRow) -> Backup:
    return Backup(
        id=row["id"],
        cluster=row["cluster"],
        kind=Kind(row["kind"]),
        method=row["method"],
        state=State(row["state"]),
        parent=row["parent"],
        owner=row["owner"],
        backup_time=row["backup_time"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        bytes=row["bytes"],
        error=row["error"],
        copies=tuple(
            Copy(
                copy["repository"],
                CopyState(copy["state"]),
                datetime.fromisoformat(copy["stored_at"]),
                datetime.fromisoformat(copy["verified_at"]) if copy["verified_at"] else None,
            )
            for copy in row["copies"]
        ),
        database_bytes=row["database_bytes"],
    )


def _verification(row: DictRow, findings: Sequence[DictRow]) -> Verification:
    return Verification(
        backup_id=row["backup_id"],
        repository=row["repository"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        verdict=Verdict(row["verdict"]) if row["verdict"] else None,
        reason=row["reason"],
        findings=tuple(
            Finding(found["name"], found["ok"], found["seconds"], found["detail"], found["hint"])
            for found in findings
            if all(found[name] == row[name] for name in ("backup_id", "repository", "attempt"))
        ),
    )

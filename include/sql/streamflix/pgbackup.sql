-- What the backup needs inside one database: run by a superuser in every database to protect, after roles.sql.
-- Running it again changes nothing. PostgreSQL 15 and newer.
--
--   psql -X -d streamflix -f pgbackup.sql

\set ON_ERROR_STOP on
\set QUIET on

BEGIN;
SET LOCAL client_min_messages = warning;

-- PUBLIC may have lost CONNECT, as it has in this sample, and pg_read_all_data does not contain it.
GRANT CONNECT ON DATABASE :"DBNAME" TO backup;

-- Function privileges are kept per database, hence here and not in roles.sql.
--
-- A backup is restorable once the WAL up to its end is archived. On a quiet server the segment that holds the
-- end would wait for archive_timeout; closing it makes the backup durable at once.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO backup;

-- A named restore point is a recovery target that does not depend on clocks. Recovery drills set one, and the
-- engineer sets one before risky work ("before_migration_42").
GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO backup;

CREATE SCHEMA IF NOT EXISTS pgbackup AUTHORIZATION backup;
COMMENT ON SCHEMA pgbackup IS 'Belongs to the backup: its heartbeat. Holds nothing of the application.';

-- One row a second, written while WAL is being received. After a recovery the newest row tells how much was
-- lost, measured in time, also where nobody else was writing; a drill looks for the row before its target and
-- for the absence of the row after it.
CREATE TABLE IF NOT EXISTS pgbackup.heartbeat (
    beat_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    moment  timestamptz NOT NULL DEFAULT clock_timestamp(),
    lsn     pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn()
)
-- Rows are only appended and, at the far end, deleted: let autovacuum follow by count, not by share of the table.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);

-- Finds the beat next to a recovery target, and the rows to drop:
--   DELETE FROM pgbackup.heartbeat WHERE moment < clock_timestamp() - interval '14 days'
-- keeps it under 1.3 million rows.
CREATE INDEX IF NOT EXISTS heartbeat_moment ON pgbackup.heartbeat (moment);

ALTER TABLE pgbackup.heartbeat OWNER TO backup;

COMMENT ON TABLE pgbackup.heartbeat IS 'Proof of life, one row a second: what a recovery brought back, measured in time.';
COMMENT ON COLUMN pgbackup.heartbeat.moment IS 'The server''s clock at the insert, not at the start of its transaction.';
COMMENT ON COLUMN pgbackup.heartbeat.lsn IS 'Where the server was about to write WAL; the beat''s own commit lies after it.';

COMMIT;

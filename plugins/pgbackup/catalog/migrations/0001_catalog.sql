-- The catalog: what was backed up, where the copies are, what their verification found.
CREATE TABLE backup_log (
    id text PRIMARY KEY,
    cluster text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('full', 'base', 'incremental')),
    method text,
    state text NOT NULL CHECK (state IN ('running', 'captured', 'verified', 'rejected', 'failed', 'expired')),
    parent text REFERENCES backup_log (id),
    owner text NOT NULL,
    backup_time timestamptz,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    bytes bigint,
    database_bytes bigint,
    error text,
    manifest jsonb,
    CHECK ((state IN ('running', 'failed')) OR (backup_time IS NOT NULL AND manifest IS NOT NULL))
);
COMMENT ON TABLE backup_log IS 'One row a backup. SELECT max(backup_time) FROM backup_log: the last moment that a backup holds.';
COMMENT ON COLUMN backup_log.backup_time IS 'The moment of the snapshot: what the backup shows; NULL until it is captured.';
COMMENT ON COLUMN backup_log.owner IS 'Who made it: dag_id/run_id, or cli:user@host.';
CREATE INDEX backup_log_newest ON backup_log (cluster, started_at DESC);

CREATE TABLE backup_copy (
    backup_id text NOT NULL REFERENCES backup_log (id) ON DELETE CASCADE,
    repository text NOT NULL,
    state text NOT NULL CHECK (state IN ('stored', 'verified', 'damaged', 'expired')),
    stored_at timestamptz NOT NULL,
    verified_at timestamptz,
    PRIMARY KEY (backup_id, repository)
);

CREATE TABLE verification (
    backup_id text NOT NULL REFERENCES backup_log (id) ON DELETE CASCADE,
    repository text NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    owner text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    verdict text CHECK (verdict IN ('verified', 'rejected')),
    reason text NOT NULL DEFAULT '',
    PRIMARY KEY (backup_id, repository, attempt)
);
COMMENT ON COLUMN verification.verdict IS 'NULL with finished_at: the verifier could not judge; the reason says why.';

CREATE TABLE finding (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    backup_id text NOT NULL,
    repository text NOT NULL,
    attempt integer NOT NULL,
    step text NOT NULL,
    name text NOT NULL,
    ok boolean NOT NULL,
    seconds double precision NOT NULL,
    detail text NOT NULL,
    hint text NOT NULL,
    FOREIGN KEY (backup_id, repository, attempt) REFERENCES verification ON DELETE CASCADE
);
COMMENT ON COLUMN finding.number IS 'The order in which they were found.';
CREATE INDEX finding_attempt ON finding (backup_id, repository, attempt, step);

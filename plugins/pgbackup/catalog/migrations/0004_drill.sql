-- Recovery drills: what was tried, how long it took, what would have been lost, what the checklist says.
CREATE TABLE drill (
    cluster text NOT NULL,
    scenario text NOT NULL CHECK (scenario IN ('full', 'point_in_time', 'table')),
    subject text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    ok boolean NOT NULL,
    rto_seconds double precision NOT NULL,
    rpo_seconds double precision,
    predicted_seconds double precision NOT NULL,
    steps jsonb NOT NULL,
    findings jsonb NOT NULL,
    owner text NOT NULL,
    PRIMARY KEY (cluster, scenario, started_at)
);
COMMENT ON COLUMN drill.subject IS 'What was recovered: the backup, the moment, the table.';
COMMENT ON COLUMN drill.rto_seconds IS 'The sum of the steps; of a drill that failed, as far as it came.';
COMMENT ON COLUMN drill.rpo_seconds IS 'NULL where it was not measured.';
COMMENT ON COLUMN drill.predicted_seconds IS 'What was predicted for the same steps before they began.';
COMMENT ON COLUMN drill.findings IS 'The protocol''s seven checklist items.';

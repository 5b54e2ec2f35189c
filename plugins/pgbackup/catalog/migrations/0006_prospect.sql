-- What can be recovered, as the watch last saw it: the Recovery page reads it, and lists no archive itself.
CREATE TABLE prospect (
    cluster text PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    document jsonb NOT NULL
);
COMMENT ON COLUMN prospect.document IS 'Windows, archived WAL, gaps, holds, the predicted duration of a recovery.';

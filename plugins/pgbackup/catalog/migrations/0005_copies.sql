-- How far each repository is with the WAL of each cluster: what would be lost if only that one were left.
CREATE TABLE wal_copy (
    cluster text NOT NULL,
    repository text NOT NULL,
    whole_at timestamptz,
    missing bigint NOT NULL,
    error text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (cluster, repository)
);
COMMENT ON COLUMN wal_copy.whole_at IS 'All WAL that was sealed up to this moment is there.';
COMMENT ON COLUMN wal_copy.missing IS 'Sealed files that were not there when the last copying ended.';
COMMENT ON COLUMN wal_copy.error IS 'Why; empty when it ended well.';

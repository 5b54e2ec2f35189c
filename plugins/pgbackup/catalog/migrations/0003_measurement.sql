-- How long the steps of verifications and recoveries took: plans predict from it.
CREATE TABLE measurement (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster text NOT NULL,
    repository text NOT NULL,
    step text NOT NULL,
    bytes bigint NOT NULL CHECK (bytes > 0),
    seconds double precision NOT NULL CHECK (seconds > 0),
    at timestamptz NOT NULL
);
CREATE INDEX ON measurement (cluster, repository, step, at DESC);
COMMENT ON COLUMN measurement.repository IS 'Where the bytes came from: a region is slower than a local disk.';

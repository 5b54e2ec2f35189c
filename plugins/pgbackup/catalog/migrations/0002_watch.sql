-- What the watch last found, and what people know of it: a mail is due where the two differ.
CREATE TABLE watch (
    cluster text NOT NULL,
    name text NOT NULL,
    ok boolean NOT NULL,
    detail text NOT NULL,
    hint text NOT NULL,
    owner text NOT NULL,
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    told_ok boolean NOT NULL DEFAULT true,
    PRIMARY KEY (cluster, name)
);
COMMENT ON COLUMN watch.owner IS 'The run that saw it last: dag_id/run_id.';
COMMENT ON COLUMN watch.since IS 'Since when ok is what it is.';
COMMENT ON COLUMN watch.told_ok IS 'What people were last told; true before any mail.';

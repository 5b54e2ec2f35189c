-- What people hear: how often a finding relapsed, messages that could not be sent, what the watch measured.
ALTER TABLE watch ADD COLUMN relapses integer NOT NULL DEFAULT 0;
ALTER TABLE watch ADD COLUMN recovered_at timestamptz;
COMMENT ON COLUMN watch.relapses IS 'How often it failed again within a day of recovered_at: the more, the longer it has to hold.';

CREATE TABLE unsent (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster text NOT NULL,
    channel text NOT NULL,
    subject text NOT NULL,
    html text NOT NULL,
    link text NOT NULL,
    kept_at timestamptz NOT NULL,
    error text NOT NULL
);
COMMENT ON TABLE unsent IS 'Messages that a mail server, or another channel, did not take; the watch sends them later.';

CREATE TABLE gauge (
    cluster text PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    samples jsonb NOT NULL
);
COMMENT ON TABLE gauge IS 'What the watch measured last, as metrics.';

-- StreamFlix, second half: keys, indexes, triggers, row-level security and grants. Run after the rows are in.

\set ON_ERROR_STOP on
\set QUIET on
SET ROLE streamflix_owner;

----------------------------------------------------------------------------------------------- primary keys

ALTER TABLE "Genre"         ADD PRIMARY KEY (genre_id);
ALTER TABLE "Title"         ADD PRIMARY KEY (title_id);
ALTER TABLE "TitleGenre"    ADD PRIMARY KEY (title_id, genre_id);
ALTER TABLE "Season"        ADD PRIMARY KEY (title_id, season_number);
ALTER TABLE "Episode"       ADD PRIMARY KEY (title_id, season_number, episode_number);
ALTER TABLE "Account"       ADD PRIMARY KEY (account_id);
ALTER TABLE "Profile"       ADD PRIMARY KEY (profile_id);
ALTER TABLE "Device"        ADD PRIMARY KEY (device_id);
ALTER TABLE "Plan"          ADD PRIMARY KEY (plan_id);
ALTER TABLE "Subscription"  ADD PRIMARY KEY (subscription_id);
ALTER TABLE "Invoice"       ADD PRIMARY KEY (invoice_id);
ALTER TABLE "Payment"       ADD PRIMARY KEY (payment_id);
ALTER TABLE "WatchEvent"    ADD PRIMARY KEY (watch_event_id, started_at);
ALTER TABLE "WatchlistItem" ADD PRIMARY KEY (profile_id, title_id);
ALTER TABLE "Rating"        ADD PRIMARY KEY (profile_id, title_id);
ALTER TABLE "AuditEntry"    ADD PRIMARY KEY (audit_entry_id);

-------------------------------------------------------------------------------------- unique and exclusion

ALTER TABLE "Genre"   ADD UNIQUE (name);
ALTER TABLE "Plan"    ADD UNIQUE (name);
ALTER TABLE "Title"   ADD UNIQUE (slug);
ALTER TABLE "Title"   ADD UNIQUE (poster);
ALTER TABLE "Title"   ADD UNIQUE (title_id, kind);              -- target of "Season"
ALTER TABLE "Account" ADD UNIQUE (public_id);
ALTER TABLE "Account" ADD UNIQUE (email);
ALTER TABLE "Profile" ADD UNIQUE (account_id, profile_id);      -- target of "Account".main_profile_id
ALTER TABLE "Invoice" ADD UNIQUE (number);
ALTER TABLE "Payment" ADD UNIQUE (provider_reference);

-- Positions are swapped inside one statement or one transaction.
ALTER TABLE "WatchlistItem" ADD UNIQUE (profile_id, position) DEFERRABLE INITIALLY IMMEDIATE;

-- Nobody pays twice for the same day.
ALTER TABLE "Subscription" ADD CONSTRAINT one_subscription_at_a_time
    EXCLUDE USING gist (account_id WITH =, period WITH &&);

----------------------------------------------------------------------------------------------- foreign keys

ALTER TABLE "TitleGenre"
    ADD FOREIGN KEY (title_id) REFERENCES "Title" ON DELETE CASCADE,
    ADD FOREIGN KEY (genre_id) REFERENCES "Genre";
ALTER TABLE "Season"
    ADD FOREIGN KEY (title_id, kind) REFERENCES "Title" (title_id, kind) ON DELETE CASCADE;
ALTER TABLE "Episode"
    ADD FOREIGN KEY (title_id, season_number) REFERENCES "Season" ON DELETE CASCADE;
ALTER TABLE "Profile"
    ADD FOREIGN KEY (account_id) REFERENCES "Account" ON DELETE CASCADE;
ALTER TABLE "Account"
    ADD FOREIGN KEY (account_id, main_profile_id) REFERENCES "Profile" (account_id, profile_id)
        DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "Device"
    ADD FOREIGN KEY (account_id) REFERENCES "Account" ON DELETE CASCADE;
ALTER TABLE "Subscription"
    ADD FOREIGN KEY (account_id) REFERENCES "Account",
    ADD FOREIGN KEY (plan_id) REFERENCES "Plan";
ALTER TABLE "Invoice"
    ADD FOREIGN KEY (subscription_id) REFERENCES "Subscription";
ALTER TABLE "Payment"
    ADD FOREIGN KEY (invoice_id) REFERENCES "Invoice";
ALTER TABLE "WatchlistItem"
    ADD FOREIGN KEY (profile_id) REFERENCES "Profile" ON DELETE CASCADE,
    ADD FOREIGN KEY (title_id) REFERENCES "Title" ON DELETE CASCADE;
ALTER TABLE "Rating"
    ADD FOREIGN KEY (profile_id) REFERENCES "Profile" ON DELETE CASCADE,
    ADD FOREIGN KEY (title_id) REFERENCES "Title" ON DELETE CASCADE;

---------------------------------------------------------------------------------------------------- indexes

-- For the foreign keys' other direction, and for the pages that list them.
CREATE INDEX ON "TitleGenre" (genre_id);
CREATE INDEX ON "Device" (account_id);
CREATE INDEX ON "Invoice" (subscription_id);
CREATE INDEX ON "Payment" (invoice_id);
CREATE INDEX ON "WatchlistItem" (title_id);
CREATE INDEX ON "Rating" (title_id);
CREATE INDEX ON "WatchEvent" (profile_id, started_at DESC);     -- "continue watching"
CREATE INDEX ON "WatchEvent" (title_id, season_number, episode_number);

CREATE INDEX title_name_trigrams ON "Title" USING gin (name gin_trgm_ops);
CREATE INDEX title_search ON "Title" USING gin (search);
CREATE INDEX title_details ON "Title" USING gin (details jsonb_path_ops);
CREATE INDEX audit_changed_at ON "AuditEntry" USING brin (changed_at);

-- Reminders look at the few open invoices only.
CREATE INDEX invoice_open ON "Invoice" (due_at) WHERE status = 'open';

-- "Anna" and "anna" would look like one viewer on the screen.
CREATE UNIQUE INDEX profile_name_in_account ON "Profile" (account_id, lower(name));

-- REFRESH MATERIALIZED VIEW CONCURRENTLY requires it.
CREATE UNIQUE INDEX ON "TitleStatistics" (title_id);

-- Foreign keys of the history come after its indexes.
ALTER TABLE "WatchEvent"
    ADD FOREIGN KEY (profile_id) REFERENCES "Profile" ON DELETE CASCADE,
    ADD FOREIGN KEY (title_id) REFERENCES "Title",
    ADD FOREIGN KEY (title_id, season_number, episode_number) REFERENCES "Episode";

--------------------------------------------------------------------------------------------------- triggers

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON "Title"   FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON "Account" FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON "Profile" FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON "Account"
    FOR EACH ROW EXECUTE FUNCTION write_audit_entry();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON "Subscription"
    FOR EACH ROW EXECUTE FUNCTION write_audit_entry();

CREATE TRIGGER unlink_poster_of_deleted AFTER DELETE ON "Title"
    FOR EACH ROW EXECUTE FUNCTION unlink_poster();
CREATE TRIGGER unlink_replaced_poster AFTER UPDATE OF poster ON "Title"
    FOR EACH ROW WHEN (OLD.poster IS DISTINCT FROM NEW.poster) EXECUTE FUNCTION unlink_poster();

----------------------------------------------------------------------------------------- row-level security

ALTER TABLE "Account"       ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Profile"       ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Device"        ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Subscription"  ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Invoice"       ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Payment"       ENABLE ROW LEVEL SECURITY;
ALTER TABLE "WatchEvent"    ENABLE ROW LEVEL SECURITY;
ALTER TABLE "WatchlistItem" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Rating"        ENABLE ROW LEVEL SECURITY;

-- The app: its account, and what hangs on it. The inner SELECTs are filtered by these same policies. As a
-- subquery the function is called once a statement and not once a row.
CREATE POLICY own_account ON "Account" TO app USING (account_id = (SELECT current_account_id()));
CREATE POLICY own_account ON "Profile" TO app USING (account_id = (SELECT current_account_id()));
CREATE POLICY own_account ON "Device"  TO app USING (account_id = (SELECT current_account_id()));
CREATE POLICY own_account ON "Subscription" TO app USING (account_id = (SELECT current_account_id()));
CREATE POLICY own_account ON "Invoice" TO app
    USING (subscription_id IN (SELECT s.subscription_id FROM "Subscription" AS s));
CREATE POLICY own_account ON "Payment" TO app
    USING (invoice_id IN (SELECT i.invoice_id FROM "Invoice" AS i));
CREATE POLICY own_account ON "WatchEvent" TO app
    USING (profile_id IN (SELECT p.profile_id FROM "Profile" AS p));
CREATE POLICY own_account ON "WatchlistItem" TO app
    USING (profile_id IN (SELECT p.profile_id FROM "Profile" AS p));

-- Reviews are public; writing one in somebody else's name is not.
CREATE POLICY everybody_reads ON "Rating" FOR SELECT TO app USING (true);
CREATE POLICY own_insert ON "Rating" FOR INSERT TO app
    WITH CHECK (profile_id IN (SELECT p.profile_id FROM "Profile" AS p));
CREATE POLICY own_update ON "Rating" FOR UPDATE TO app
    USING (profile_id IN (SELECT p.profile_id FROM "Profile" AS p));
CREATE POLICY own_delete ON "Rating" FOR DELETE TO app
    USING (profile_id IN (SELECT p.profile_id FROM "Profile" AS p));

CREATE POLICY reports ON "Account"       FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "Profile"       FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "Device"        FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "Subscription"  FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "Invoice"       FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "Payment"       FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "WatchEvent"    FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "WatchlistItem" FOR SELECT TO readonly USING (true);
CREATE POLICY reports ON "Rating"        FOR SELECT TO readonly USING (true);

----------------------------------------------------------------------------------------------------- grants

GRANT SELECT ON "Genre", "Title", "TitleGenre", "Season", "Episode", "Plan", "Rating", "Subscription", "Invoice",
    "Payment", "WatchEvent", "WatchlistItem", "Device", "Profile", "ActiveSubscription", "TitleStatistics"
    TO app, readonly;
GRANT SELECT ON "MonthlyRevenue" TO readonly;
GRANT SELECT (account_id, public_id, main_profile_id, created_at, updated_at, marketing_consent, country) ON "Account"
    TO readonly;

GRANT SELECT, INSERT, UPDATE ON "Account", "Subscription" TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON "Profile", "Device", "WatchlistItem", "Rating" TO app;
GRANT INSERT ON "WatchEvent", "Invoice", "Payment" TO app;
GRANT UPDATE (status) ON "Invoice" TO app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app;

-- EXECUTE is PUBLIC's by default; these two either change money or run with the owner's rights.
REVOKE EXECUTE ON FUNCTION change_plan(bigint, smallint, timestamptz), title_poster(integer) FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE create_watch_month(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION change_plan(bigint, smallint, timestamptz), title_poster(integer) TO app;

-- For tables of later migrations. Not for those above: readonly must not get the whole of "Account".
ALTER DEFAULT PRIVILEGES FOR ROLE streamflix_owner IN SCHEMA public GRANT SELECT ON TABLES TO readonly;
ALTER DEFAULT PRIVILEGES FOR ROLE streamflix_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE streamflix_owner IN SCHEMA public GRANT USAGE ON SEQUENCES TO app;

RESET ROLE;

-- Roles of the StreamFlix cluster. Run by a superuser in any database; running it again changes nothing.
--
--   psql -X -d postgres -f roles.sql
--
-- Passwords come from the psql variables backup_password, app_password and readonly_password or, so that
-- they need not stand in a command line that every user of the host can read, from the environment variables
-- STREAMFLIX_BACKUP_PASSWORD, STREAMFLIX_APP_PASSWORD and STREAMFLIX_READONLY_PASSWORD. A role whose password
-- is given by neither keeps the one it has; a new role then has none and can only use peer, cert or trust.

\set ON_ERROR_STOP on
\set QUIET on

\if :{?backup_password}
\else
\getenv backup_password STREAMFLIX_BACKUP_PASSWORD
\endif
\if :{?app_password}
\else
\getenv app_password STREAMFLIX_APP_PASSWORD
\endif
\if :{?readonly_password}
\else
\getenv readonly_password STREAMFLIX_READONLY_PASSWORD
\endif

BEGIN;

-- A password in ALTER ROLE is plain text to the server's log.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';

-- Two loads at the same time would fail with "tuple concurrently updated"; the second one waits instead.
LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['streamflix_owner', 'backup', 'app', 'readonly'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
END
$$;

-- Owns everything in the database. Nobody logs in with it, so that no session can drop a table by accident.
ALTER ROLE streamflix_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

-- The service. It sees the rows of one account at a time: see the policies in constraints.sql.
ALTER ROLE app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

-- Reports. Sees every row, but no e-mail addresses, no password hashes and no posters.
ALTER ROLE readonly LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE readonly SET default_transaction_read_only = on;

-- Takes the backups. It can read everything and, apart from its own heartbeat table, change nothing.
-- The rights that live in each database are in pgbackup.sql.
--   REPLICATION  pg_basebackup, pg_receivewal, replication slots
--   BYPASSRLS    pg_dump refuses a table with row-level security rather than write a part of its rows
ALTER ROLE backup LOGIN REPLICATION BYPASSRLS NOSUPERUSER NOCREATEDB NOCREATEROLE;

DO $$
BEGIN
    -- pg_read_all_data: SELECT on every table, the system catalogs with the password hashes included, which is
    -- what pg_dumpall --globals-only reads; USAGE on every schema.
    IF NOT pg_catalog.pg_has_role('backup', 'pg_read_all_data', 'MEMBER') THEN
        GRANT pg_read_all_data TO backup;
    END IF;
    -- pg_monitor: other sessions' state, slots, the archiver, settings and the WAL directory's listing.
    IF NOT pg_catalog.pg_has_role('backup', 'pg_monitor', 'MEMBER') THEN
        GRANT pg_monitor TO backup;
    END IF;
END
$$;

-- pg_read_all_data does not open large objects: each has an owner and an access list of its own. Without this
-- setting pg_dump ends with "permission denied for large object".
ALTER ROLE backup SET lo_compat_privileges = on;

\if :{?backup_password}
ALTER ROLE backup PASSWORD :'backup_password';
\endif
\if :{?app_password}
ALTER ROLE app PASSWORD :'app_password';
\endif
\if :{?readonly_password}
ALTER ROLE readonly PASSWORD :'readonly_password';
\endif

COMMIT;

-- Loads the StreamFlix sample into the database psql is connected to: fresh, UTF-8, as superuser.
--
--   createdb --template=template0 --encoding=UTF8 streamflix
--   psql -X -d streamflix -v scale=1 -f load.sql
--
-- scale     size of the content, a positive number: 0.01 for tests (default), 1 for the demo, 10 for benchmarks
-- passwords see roles.sql
--
-- Roles are made first. Then everything else happens in one transaction: a load that fails leaves an empty
-- database, not half of one.

\set ON_ERROR_STOP on
\set QUIET on
\encoding UTF8

\if :{?scale}
\else
\set scale 0.01
\endif

\ir roles.sql

-- Neither what 'one month later' means nor how a range looks inside jsonb is left to the defaults of the server
-- or to the environment of the client.
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
-- Losing the load in a crash costs a second load and nothing else.
SET synchronous_commit = off;
SET maintenance_work_mem = '256MB';
SET work_mem = '64MB';

BEGIN;
\ir schema.sql
\ir generate.sql
\ir constraints.sql
REFRESH MATERIALIZED VIEW "TitleStatistics";
ANALYZE;
COMMIT;

\ir pgbackup.sql

-- Leaves autovacuum nothing to do later, in the middle of a measurement. Not worth its time for a small load.
SELECT :scale >= 0.5 AS large \gset
\if :large
VACUUM;
\endif

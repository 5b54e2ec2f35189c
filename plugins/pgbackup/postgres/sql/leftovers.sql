-- Databases that a recovery made or set aside: marked by their comment, or (killed before the mark) by their name.
SELECT d.datname AS name,
       coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), '') AS comment,
       pg_catalog.pg_database_size(d.oid) AS bytes,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity AS a WHERE a.datid = d.oid)::int AS sessions
FROM pg_catalog.pg_database AS d
WHERE pg_catalog.shobj_description(d.oid, 'pg_database') LIKE 'pgbackup: %'
   OR d.datname ~ '^restoring_.*_at_[0-9]{8}_[0-9]{6}$'
ORDER BY d.datname COLLATE "C"

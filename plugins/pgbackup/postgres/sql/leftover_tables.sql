-- Tables that a recovery made or set aside.
SELECT n.nspname AS schema_name, c.relname AS name, pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
       pg_catalog.pg_total_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND pg_catalog.obj_description(c.oid, 'pg_class') LIKE 'pgbackup: %'
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"

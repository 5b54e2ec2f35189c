-- Foreign keys and whether the server vouches for them; constraints of partitions come with their parents.
SELECT n.nspname AS schema_name, c.relname AS "table", k.conname AS name, k.convalidated AS validated
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", k.conname COLLATE "C"

-- Indexes that the server itself does not use: left behind by a failed CREATE INDEX CONCURRENTLY, or not ready.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"

-- The largest tables with their indexes and TOAST, as the protocol's health check asks for them; a partition counts alone.
SELECT n.nspname AS schema_name, c.relname AS name, pg_catalog.pg_total_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm')
  AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY bytes DESC, n.nspname COLLATE "C", c.relname COLLATE "C"
LIMIT 10

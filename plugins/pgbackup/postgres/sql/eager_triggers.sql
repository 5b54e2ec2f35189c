-- Triggers of a table and its partitions that fire even while rows are replicated.
SELECT t.tgrelid::pg_catalog.regclass::text AS "table", t.tgname AS name,
       CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END AS state
FROM pg_catalog.pg_trigger AS t
WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')
  AND t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::pg_catalog.regclass)
                    UNION SELECT %(oid)s::oid)

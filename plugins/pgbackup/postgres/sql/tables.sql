-- Tables whose rows a dump holds. An extension's tables count only where the extension marked them as its
-- configuration, with its condition. Columns come in canonical order: a dump may restore inherited ones in another.
SELECT n.nspname AS schema_name,
       c.relname AS name,
       c.relkind::text AS kind,
       c.relpersistence = 'u' AS unlogged,
       coalesce(a.columns, '{}') AS columns,
       coalesce(e.condition, '') AS condition,
       pg_catalog.pg_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT pg_catalog.array_agg(t.attname::text ORDER BY t.attname COLLATE "C") AS columns
    FROM pg_catalog.pg_attribute AS t
    WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
) AS a ON true
LEFT JOIN LATERAL (
    SELECT true AS member, x.extcondition[pg_catalog.array_position(x.extconfig, c.oid)] AS condition,
           c.oid = ANY (x.extconfig) AS configured
    FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_extension AS x ON x.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e'
      AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
) AS e ON true
WHERE c.relkind IN ('r', 'p')
  AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (e.member IS NULL OR e.configured)
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"

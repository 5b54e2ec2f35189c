-- Sequences that a dump restores, with the last value handed out (NULL: none yet). Those that cycle can't be compared.
SELECT n.nspname AS schema_name,
       c.relname AS name,
       pg_catalog.pg_sequence_last_value(c.oid::pg_catalog.regclass) AS last_value,
       s.seqincrement AS increment
FROM pg_catalog.pg_sequence AS s
JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND NOT s.seqcycle
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"

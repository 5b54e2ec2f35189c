-- Sequences of a table's columns.
SELECT d.objid::int8 AS sequence, a.attname::text AS column, s.seqincrement > 0 AS rises
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = d.objid
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.deptype IN ('a', 'i') AND d.refobjid = %(oid)s::oid

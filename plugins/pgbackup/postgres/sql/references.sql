-- Foreign keys that the server vouches for, of a table and onto it, once each where partitions repeat them; with the
-- operators that compare, so that citext compares as citext.
SELECT k.conname AS name,
       k.conrelid::int8 AS referencing,
       k.conrelid::pg_catalog.regclass::text AS referencing_name,
       k.confrelid::int8 AS referenced,
       k.confrelid::pg_catalog.regclass::text AS referenced_name,
       coalesce(pg_catalog.to_jsonb(k) ->> 'conperiod', 'false')::bool AS temporal,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY p)
        FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (n, p)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = n) AS columns,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY p)
        FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (n, p)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = n) AS key,
       (SELECT pg_catalog.array_agg(pg_catalog.format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) ORDER BY p)
        FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY AS u (n, p)
        JOIN pg_catalog.pg_operator AS o ON o.oid = n
        JOIN pg_catalog.pg_namespace AS s ON s.oid = o.oprnamespace) AS operators
FROM pg_catalog.pg_constraint AS k
LEFT JOIN pg_catalog.pg_constraint AS parent ON parent.oid = k.conparentid
WHERE k.contype = 'f' AND k.convalidated AND %(oid)s::oid IN (k.conrelid, k.confrelid)
  AND (parent.oid IS NULL OR NOT %(oid)s::oid IN (parent.conrelid, parent.confrelid))
ORDER BY k.conname COLLATE "C"

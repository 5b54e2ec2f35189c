-- One relation by its name.
SELECT c.oid::int8 AS oid,
       c.relkind::text AS kind,
       c.relispartition AS is_partition,
       c.relrowsecurity AS row_security,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned,
       pg_catalog.has_parameter_privilege('session_replication_role', 'SET') AS may_replicate,
       coalesce((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}') AS columns,
       coalesce((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attname COLLATE "C")
                 FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''), '{}') AS generated,
       coalesce((SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.place)
                 FROM pg_catalog.pg_index AS i, pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
                 JOIN pg_catalog.pg_attribute AS a ON a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND k.place <= i.indnkeyatts), '{}') AS key
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s

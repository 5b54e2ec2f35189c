-- Collations of the database and of its indexes that this machine has in another version than the one recorded.
SELECT pg_catalog.format('recorded %s, here %s', d.datcollversion, v) AS difference
FROM pg_catalog.pg_database AS d, pg_catalog.pg_database_collation_actual_version(d.oid) AS v
WHERE d.datname = pg_catalog.current_database() AND d.datcollversion <> v
UNION
SELECT pg_catalog.format('%I: recorded %s, here %s', c.collname, c.collversion, v)
FROM pg_catalog.pg_index AS i, pg_catalog.unnest(i.indcollation) AS used
JOIN pg_catalog.pg_collation AS c ON c.oid = used, pg_catalog.pg_collation_actual_version(c.oid) AS v
WHERE c.collversion <> v
ORDER BY 1

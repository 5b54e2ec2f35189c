-- What a dump by this role knowingly leaves out of the connected database.
SELECT pg_catalog.format('subscription %I (needs a superuser)', s.subname) AS note
FROM pg_catalog.pg_subscription AS s
WHERE s.subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
UNION ALL
SELECT pg_catalog.format('options of the user mapping for %s on server %I (passwords are hidden from us)', u.usename, u.srvname)
FROM pg_catalog.pg_user_mappings AS u
WHERE u.umoptions IS NULL
UNION ALL
SELECT pg_catalog.format('rows of foreign table %s (they live elsewhere)', f.ftrelid::pg_catalog.regclass)
FROM pg_catalog.pg_foreign_table AS f
ORDER BY 1

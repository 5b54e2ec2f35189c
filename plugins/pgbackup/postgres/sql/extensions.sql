-- Installed extensions.
SELECT x.extname AS name, x.extversion AS version
FROM pg_catalog.pg_extension AS x
ORDER BY x.extname COLLATE "C"

-- Roles, and which one owns the server (the bootstrap superuser always has OID 10).
SELECT r.rolname AS name, r.oid = 10 AS bootstrap
FROM pg_catalog.pg_roles AS r
WHERE r.rolname !~ '^pg_'
ORDER BY r.rolname COLLATE "C"

-- What the connected role can do that a backup does not need: attributes, and predefined roles that it can act as.
SELECT a.name
FROM pg_catalog.pg_roles AS r,
     LATERAL (VALUES ('superuser', r.rolsuper), ('createdb', r.rolcreatedb), ('createrole', r.rolcreaterole))
         AS a (name, has)
WHERE r.rolname = session_user AND a.has
UNION ALL
SELECT p.rolname::text
FROM pg_catalog.pg_roles AS r, pg_catalog.pg_roles AS p
WHERE r.rolname = session_user AND NOT r.rolsuper
  AND p.rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program', 'pg_maintain',
                    'pg_create_subscription')
  AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER')
UNION ALL
SELECT 'may act as superuser ' || pg_catalog.quote_ident(p.rolname)
FROM pg_catalog.pg_roles AS r, pg_catalog.pg_roles AS p
WHERE r.rolname = session_user AND NOT r.rolsuper AND p.rolsuper
  AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER')

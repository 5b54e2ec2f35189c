-- What the role and the server lack to make a database with objects of some owners and with some extensions.
SELECT pg_catalog.format('role %%I may not create databases: ALTER ROLE %%I CREATEDB', r.rolname, r.rolname)
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = current_user AND NOT r.rolsuper AND NOT r.rolcreatedb
UNION ALL
SELECT pg_catalog.format('role %%I does not exist: restore.sh --globals makes it', o)
FROM pg_catalog.unnest(%(owners)s::text[]) AS o
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = o)
UNION ALL
SELECT pg_catalog.format('role %%I may not act as %%I: GRANT %%I TO %%I', current_user, r.rolname, r.rolname, current_user)
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = ANY (%(owners)s::text[])
  -- before 16 every member of a role could act as it
  AND NOT pg_catalog.pg_has_role(current_user, r.oid, CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000
                                                           THEN 'SET' ELSE 'MEMBER' END)
UNION ALL
SELECT pg_catalog.format('extension %%I is not installed on the server', e)
FROM pg_catalog.unnest(%(extensions)s::text[]) AS e
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS x WHERE x.name = e)

-- The inventory: every object that a dump restores, by class, with what is stored verbatim of its definition.
-- Texts that a server re-writes when it parses them (views, checks, defaults) count by name only.
WITH member AS (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.deptype = 'e'
), space AS (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
), relation AS (
    SELECT c.*, s.nspname
    FROM pg_catalog.pg_class AS c JOIN space AS s ON s.oid = c.relnamespace
    WHERE c.relpersistence <> 't' AND c.relkind <> 't'
      AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = c.oid)
), item (class, identity) AS (
    SELECT 'schemas', ROW(s.nspname, pg_catalog.pg_get_userbyid(n.nspowner), acl.texts)::text
    FROM space AS s JOIN pg_catalog.pg_namespace AS n USING (oid)
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(t ORDER BY t COLLATE "C")
        FROM pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS x,
             pg_catalog.concat_ws(' ', x.grantee::pg_catalog.regrole, x.privilege_type, x.is_grantable) AS t
    ) AS acl (texts)
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND objid = n.oid)
      -- A database without schema public gets it back, as initdb made it: as such it doesn't count.
      AND (n.nspname <> 'public' OR n.nspowner >= 16384
           OR acl.texts IS DISTINCT FROM (
                  SELECT pg_catalog.array_agg(t ORDER BY t COLLATE "C")
                  FROM pg_catalog.pg_init_privs AS i, pg_catalog.aclexplode(i.initprivs) AS x,
                       pg_catalog.concat_ws(' ', x.grantee::pg_catalog.regrole, x.privilege_type, x.is_grantable) AS t
                  WHERE i.objoid = n.oid AND i.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND i.objsubid = 0))
    UNION ALL
    SELECT CASE r.relkind WHEN 'r' THEN 'tables' WHEN 'p' THEN 'tables' WHEN 'i' THEN 'indexes' WHEN 'I' THEN 'indexes'
                          WHEN 'S' THEN 'sequences' WHEN 'v' THEN 'views' WHEN 'm' THEN 'materialized views'
                          WHEN 'c' THEN 'composite types' ELSE 'foreign tables' END,
           ROW(r.nspname, r.relname, r.relkind, r.relpersistence, pg_catalog.pg_get_userbyid(r.relowner),
               r.relrowsecurity, r.relforcerowsecurity, r.relispartition,
               (SELECT pg_catalog.array_agg(o ORDER BY o COLLATE "C") FROM pg_catalog.unnest(r.reloptions) AS o),
               acl.texts)::text
    FROM relation AS r
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(t ORDER BY t COLLATE "C")
        FROM pg_catalog.aclexplode(coalesce(r.relacl, pg_catalog.acldefault(
                 CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner))) AS x,
             pg_catalog.concat_ws(' ', x.grantee::pg_catalog.regrole, x.privilege_type, x.is_grantable) AS t
    ) AS acl (texts)
    UNION ALL
    SELECT 'columns', ROW(r.nspname, r.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
                          a.atthasdef, a.attidentity, a.attgenerated, a.attcompression,
                          acl.texts)::text
    FROM pg_catalog.pg_attribute AS a JOIN relation AS r ON r.oid = a.attrelid
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(t ORDER BY t COLLATE "C")
        FROM pg_catalog.aclexplode(a.attacl) AS x,
             pg_catalog.concat_ws(' ', x.grantee::pg_catalog.regrole, x.privilege_type, x.is_grantable) AS t
    ) AS acl (texts)
    WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind NOT IN ('i', 'I', 'S')
    UNION ALL
    SELECT 'inheritance', ROW(i.inhrelid::pg_catalog.regclass, i.inhparent::pg_catalog.regclass)::text
    FROM pg_catalog.pg_inherits AS i JOIN relation AS r ON r.oid = i.inhrelid
    WHERE r.relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT 'constraints', ROW(s.nspname, k.conrelid::pg_catalog.regclass, k.contypid::pg_catalog.regtype, k.conname,
                              k.contype, k.condeferrable, k.condeferred, k.convalidated, k.confupdtype, k.confdeltype)::text
    FROM pg_catalog.pg_constraint AS k JOIN space AS s ON s.oid = k.connamespace
    WHERE k.contype <> 'n' AND k.conparentid = 0
      AND NOT EXISTS (SELECT FROM member WHERE objid IN (k.conrelid, k.contypid))
    UNION ALL
    SELECT 'triggers', ROW(r.nspname, r.relname, t.tgname, t.tgfoid::pg_catalog.regproc, t.tgtype, t.tgenabled,
                           t.tgdeferrable, t.tgargs)::text
    FROM pg_catalog.pg_trigger AS t JOIN relation AS r ON r.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'functions', ROW(s.nspname, p.proname, p.proargtypes::pg_catalog.regtype[], p.prokind,
                            pg_catalog.format_type(p.prorettype, NULL), p.prosrc, p.provolatile, p.prosecdef,
                            p.proisstrict, p.proconfig, l.lanname, pg_catalog.pg_get_userbyid(p.proowner),
                            acl.texts)::text
    FROM pg_catalog.pg_proc AS p
    JOIN space AS s ON s.oid = p.pronamespace
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(t ORDER BY t COLLATE "C")
        FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS x,
             pg_catalog.concat_ws(' ', x.grantee::pg_catalog.regrole, x.privilege_type, x.is_grantable) AS t
    ) AS acl (texts)
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND objid = p.oid)
    UNION ALL
    SELECT 'types', ROW(s.nspname, t.typname, t.typtype, pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod),
                        t.typnotnull, t.typdefault, pg_catalog.pg_get_userbyid(t.typowner),
                        (SELECT pg_catalog.array_agg(e.enumlabel ORDER BY e.enumsortorder)
                         FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid))::text
    FROM pg_catalog.pg_type AS t JOIN space AS s ON s.oid = t.typnamespace
    WHERE t.typtype IN ('d', 'e', 'r')
      AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND objid = t.oid)
    UNION ALL
    SELECT 'policies', ROW(r.nspname, r.relname, p.polname, p.polcmd, p.polpermissive,
                           (SELECT pg_catalog.array_agg(g ORDER BY g::text COLLATE "C")
                            FROM pg_catalog.unnest(p.polroles::pg_catalog.regrole[]) AS g))::text
    FROM pg_catalog.pg_policy AS p JOIN relation AS r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'rules', ROW(r.nspname, r.relname, w.rulename, w.ev_type, w.ev_enabled, w.is_instead)::text
    FROM pg_catalog.pg_rewrite AS w JOIN relation AS r ON r.oid = w.ev_class
    UNION ALL
    SELECT 'operators', ROW(s.nspname, o.oprname, o.oprleft::pg_catalog.regtype, o.oprright::pg_catalog.regtype)::text
    FROM pg_catalog.pg_operator AS o JOIN space AS s ON s.oid = o.oprnamespace
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND objid = o.oid)
    UNION ALL
    SELECT 'extended statistics', ROW(s.nspname, x.stxname, x.stxrelid::pg_catalog.regclass)::text
    FROM pg_catalog.pg_statistic_ext AS x JOIN space AS s ON s.oid = x.stxnamespace
    UNION ALL
    SELECT 'collations', ROW(s.nspname, c.collname, c.collprovider)::text
    FROM pg_catalog.pg_collation AS c JOIN space AS s ON s.oid = c.collnamespace
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_collation'::pg_catalog.regclass AND objid = c.oid)
    UNION ALL
    SELECT 'foreign servers', ROW(f.srvname, pg_catalog.pg_get_userbyid(f.srvowner))::text FROM pg_catalog.pg_foreign_server AS f
    UNION ALL
    SELECT 'event triggers', ROW(e.evtname, e.evtevent, e.evtenabled)::text FROM pg_catalog.pg_event_trigger AS e
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND objid = e.oid)
    UNION ALL
    SELECT 'publications', ROW(p.pubname, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate)::text
    FROM pg_catalog.pg_publication AS p
    UNION ALL
    SELECT 'default privileges', ROW(pg_catalog.pg_get_userbyid(a.defaclrole), a.defaclnamespace::pg_catalog.regnamespace, a.defaclobjtype)::text
    FROM pg_catalog.pg_default_acl AS a
    UNION ALL
    SELECT 'large objects', ROW(m.oid, pg_catalog.pg_get_userbyid(m.lomowner))::text FROM pg_catalog.pg_largeobject_metadata AS m
    UNION ALL
    SELECT 'sequence settings', ROW(r.nspname, r.relname, pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement,
                                    q.seqmin, q.seqmax, q.seqcache, q.seqcycle)::text
    FROM pg_catalog.pg_sequence AS q JOIN relation AS r ON r.oid = q.seqrelid
    UNION ALL
    SELECT 'casts', ROW(pg_catalog.format_type(k.castsource, NULL), pg_catalog.format_type(k.casttarget, NULL),
                        k.castfunc::pg_catalog.regprocedure, k.castcontext, k.castmethod)::text
    FROM pg_catalog.pg_cast AS k
    WHERE k.oid >= 16384
      AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_cast'::pg_catalog.regclass AND objid = k.oid)
    UNION ALL
    SELECT 'operator classes', ROW(s.nspname, o.opcname, a.amname, pg_catalog.format_type(o.opcintype, NULL), o.opcdefault)::text
    FROM pg_catalog.pg_opclass AS o
    JOIN space AS s ON s.oid = o.opcnamespace
    JOIN pg_catalog.pg_am AS a ON a.oid = o.opcmethod
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_opclass'::pg_catalog.regclass AND objid = o.oid)
    UNION ALL
    SELECT 'text search configurations', ROW(s.nspname, c.cfgname)::text
    FROM pg_catalog.pg_ts_config AS c JOIN space AS s ON s.oid = c.cfgnamespace
    WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_catalog.pg_ts_config'::pg_catalog.regclass AND objid = c.oid)
    UNION ALL
    SELECT 'foreign data wrappers', ROW(w.fdwname, pg_catalog.pg_get_userbyid(w.fdwowner))::text
    FROM pg_catalog.pg_foreign_data_wrapper AS w
    WHERE NOT EXISTS (SELECT FROM member
                      WHERE classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass AND objid = w.oid)
    UNION ALL
    SELECT 'user mappings', ROW(m.usename, m.srvname)::text FROM pg_catalog.pg_user_mappings AS m
    UNION ALL
    SELECT 'database', ROW(pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding), d.datlocprovider,
                           d.datcollate, d.datctype,
                           coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale'),
                           d.datconnlimit, acl.texts, pg_catalog.shobj_description(d.oid, 'pg_database'))::text
    FROM pg_catalog.pg_database AS d
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(t ORDER BY t COLLATE "C")
        FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS x,
             pg_catalog.concat_ws(' ', x.grantee::pg_catalog.regrole, x.privilege_type, x.is_grantable) AS t
    ) AS acl (texts)
    WHERE d.datname = pg_catalog.current_database()
    UNION ALL
    SELECT 'database settings', ROW(pg_catalog.pg_get_userbyid(nullif(g.setrole, 0)), c)::text
    FROM pg_catalog.pg_db_role_setting AS g, pg_catalog.unnest(g.setconfig) AS c
    WHERE g.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
    UNION ALL
    SELECT 'comments', ROW(d.classoid::pg_catalog.regclass, d.objsubid > 0, d.description)::text
    FROM pg_catalog.pg_description AS d
    WHERE d.objoid >= 16384
      AND NOT EXISTS (SELECT FROM member WHERE classid = d.classoid AND objid = d.objoid)
      AND d.classoid <> 'pg_catalog.pg_extension'::pg_catalog.regclass
      AND d.classoid <> 'pg_catalog.pg_language'::pg_catalog.regclass
)
SELECT class AS name, count(*)::int AS count, sum(pg_catalog.hashtextextended(identity COLLATE "C", 0))::text AS hash
FROM item
GROUP BY class
ORDER BY class

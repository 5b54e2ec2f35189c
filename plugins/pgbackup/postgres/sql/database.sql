-- The connected database's own properties; the locale column is called differently before PostgreSQL 17.
SELECT pg_catalog.pg_get_userbyid(d.datdba) AS owner,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
       d.datlocprovider AS locale_provider,
       d.datcollate AS collate,
       d.datctype AS ctype,
       coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale') AS locale,
       d.datcollversion AS collation_version,
       pg_catalog.pg_database_collation_actual_version(d.oid) AS actual_collation_version,
       pg_catalog.pg_database_size(d.oid) AS bytes,
       coalesce((SELECT pg_catalog.array_agg(coalesce(pg_catalog.pg_get_userbyid(nullif(s.setrole, 0)) || ': ', '') || c
                                             ORDER BY s.setrole, c COLLATE "C")
                 FROM pg_catalog.pg_db_role_setting AS s, pg_catalog.unnest(s.setconfig) AS c
                 WHERE s.setdatabase = d.oid), '{}') AS settings
FROM pg_catalog.pg_database AS d
WHERE d.datname = pg_catalog.current_database()

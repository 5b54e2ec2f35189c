-- The source server: one row.
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
       pg_catalog.current_setting('server_version_num')::int AS version,
       pg_catalog.current_setting('server_version') AS version_text,
       -- the last checkpoint may be older than a promotion
       CASE WHEN pg_catalog.pg_is_in_recovery()
            THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())
            ELSE ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int
       END AS timeline,
       pg_catalog.current_setting('data_checksums') = 'on' AS data_checksums,
       pg_catalog.current_setting('block_size')::int AS block_size,
       -- not by current_setting(): that one fails without pg_monitor, which preflight wants to name
       coalesce((SELECT pg_catalog.array_agg(pg_catalog.btrim(l, ' "'))
                 FROM pg_catalog.pg_settings AS p, pg_catalog.unnest(pg_catalog.string_to_array(p.setting, ',')) AS l
                 WHERE p.name = 'shared_preload_libraries'), '{}') AS shared_preload_libraries

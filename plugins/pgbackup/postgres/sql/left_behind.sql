-- What follows or feeds this server, or waits in it, and has to be seen to when a recovered cluster takes its place.
SELECT pg_catalog.format('standby %%s at %%s has to be rebuilt', r.application_name,
                         coalesce(pg_catalog.host(r.client_addr), 'a local socket'))
FROM pg_catalog.pg_stat_replication AS r
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s
                  WHERE s.active_pid = r.pid AND (s.slot_name = %(receiver)s OR s.temporary OR s.slot_type = 'logical'))
UNION ALL
SELECT CASE slot_type
           WHEN 'logical' THEN pg_catalog.format('logical slot %%s of database %%s stays with the old directory:'
                                                 ' its subscriber has to be rebuilt', slot_name, database)
           ELSE pg_catalog.format('replication slot %%s stays with the old directory', slot_name)
       END
FROM pg_catalog.pg_replication_slots
WHERE slot_name <> %(receiver)s AND NOT temporary
UNION ALL
SELECT pg_catalog.format('subscription %%s of database %%s does not get again what it got after the target: refresh it',
                         s.subname, d.datname)
FROM pg_catalog.pg_subscription AS s
JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid
UNION ALL
SELECT pg_catalog.format('prepared transaction %%s of database %%s stays with the old directory', gid, database)
FROM pg_catalog.pg_prepared_xacts
UNION ALL
SELECT pg_catalog.format('commits will wait for standbys as synchronous_standby_names (%%s) says', setting)
FROM pg_catalog.pg_settings
WHERE name = 'synchronous_standby_names' AND setting <> ''

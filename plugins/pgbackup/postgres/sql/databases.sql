-- Every database that can be dumped: not the templates, nor those that allow no connection.
SELECT d.datname
FROM pg_catalog.pg_database AS d
WHERE d.datallowconn AND NOT d.datistemplate
  AND d.datconnlimit <> -2 -- half dropped: nobody can connect to it any more
ORDER BY d.datname COLLATE "C"

-- A table and, when it is partitioned, all that it consists of. Those that merely inherit from it are their own.
WITH RECURSIVE tree AS (
    SELECT c.oid
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p')
    UNION ALL
    SELECT c.oid
    FROM tree
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = tree.oid
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT n.nspname AS schema_name, c.relname AS name
FROM tree
JOIN pg_catalog.pg_class AS c ON c.oid = tree.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace

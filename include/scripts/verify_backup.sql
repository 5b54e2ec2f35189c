-- Look at one restored database. Prints, tab-separated: count|wrong|note, check, number or text.
-- psql variables: `expected` is set when its tables, sequences, keys and large objects were written to files
-- (expected.*, from manifest.json) in the current folder; `hashes` when its fingerprints compare with this server's.

-- Whatever a value's text depends on: the engine pinned the same when it took the fingerprints.
SET search_path = '';
SET row_security = off;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET extra_float_digits = 1;
SET bytea_output = 'hex';
SET xmlbinary = 'base64';
SET lc_monetary = 'C';
SET quote_all_identifiers = off;

-- Tables whose rows a dump holds; of an extension's own only those that it marked as its configuration. Columns in an
-- order that does not depend on the order in which they were created.
CREATE TEMP TABLE restored_table AS
SELECT n.nspname AS schema_name, c.relname AS name, c.relkind AS kind, coalesce(a.columns, '') AS columns,
       coalesce(e.condition, '') AS condition
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT string_agg(format('a.%I', t.attname), ', ' ORDER BY t.attname COLLATE "C") AS columns
    FROM pg_attribute AS t
    WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
) AS a ON true
LEFT JOIN LATERAL (
    SELECT true AS member, x.extcondition[array_position(x.extconfig, c.oid)] AS condition,
           c.oid = ANY (x.extconfig) AS configured
    FROM pg_depend AS d
    JOIN pg_extension AS x ON x.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
      AND d.refclassid = 'pg_extension'::regclass
) AS e ON true
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (e.member IS NULL OR e.configured);

CREATE TEMP TABLE expected_table (schema_name name, name name, kind "char", rows bigint, hash text);
CREATE TEMP TABLE expected_sequence (schema_name name, name name, last_value bigint, increment bigint);
CREATE TEMP TABLE expected_key (schema_name name, table_name name, name name, validated boolean);
CREATE TEMP TABLE expected_large_objects (rows bigint, hash text);
-- Foreign keys that pg_restore could not make, because rows violate them.
CREATE TEMP TABLE violated (name name);
\copy pg_temp.violated FROM 'violated' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')
\if :{?expected}
\copy pg_temp.expected_table FROM 'expected.tables'
\copy pg_temp.expected_sequence FROM 'expected.sequences'
\copy pg_temp.expected_key FROM 'expected.keys'
\copy pg_temp.expected_large_objects FROM 'expected.large_objects'
\endif

CREATE TEMP TABLE content (schema_name name, name name, rows bigint, hash text);
\if :{?hashes}
\set hash 'coalesce(sum(hashtextextended(ROW(%s)::text COLLATE "C", 0)), 0)::text'
\else
\set hash 'left(%L, 0)'
\endif
SELECT format('INSERT INTO pg_temp.content SELECT %L, %L, count(*), ' || :'hash' || ' FROM ONLY %I.%I AS a %s',
              schema_name, name, columns, schema_name, name, condition)
FROM pg_temp.restored_table WHERE kind = 'r'
\gexec

COPY (
    SELECT 'count', 'tables', count(*)::text FROM pg_temp.restored_table
  UNION ALL
    SELECT 'wrong', 'tables', format('%I.%I is missing', schema_name, name)
    FROM pg_temp.expected_table WHERE (schema_name, name) NOT IN (SELECT schema_name, name FROM pg_temp.restored_table)
  UNION ALL
    SELECT 'count', 'rows', coalesce(sum(rows), 0)::text FROM pg_temp.content
  UNION ALL
    SELECT 'wrong', 'rows', format('%I.%I has %s rows, the source had %s', schema_name, name, c.rows, e.rows)
    FROM pg_temp.expected_table AS e JOIN pg_temp.content AS c USING (schema_name, name)
    WHERE e.kind = 'r' AND c.rows <> e.rows
  UNION ALL
    SELECT 'note', 'rows', format('%I.%I was not fingerprinted: not compared', schema_name, name)
    FROM pg_temp.expected_table WHERE kind = 'r' AND rows IS NULL
  UNION ALL
    SELECT 'count', 'content', count(*)::text FROM pg_temp.expected_table AS e WHERE e.hash IS NOT NULL
) TO STDOUT;

\if :{?hashes}
-- A large object restored has zero bytes where the source had holes, and other page ends.
CREATE TEMP TABLE large_object AS
WITH pages AS (
    SELECT p.loid, p.pageno, p.data, rtrim(p.data, '\x00'::bytea) AS content FROM pg_largeobject AS p
), objects AS (
    SELECT m.oid AS loid, coalesce(max(p.pageno::bigint * 2048 + length(p.data)), 0) AS bytes
    FROM pg_largeobject_metadata AS m LEFT JOIN pages AS p ON p.loid = m.oid GROUP BY m.oid
)
SELECT (SELECT count(*) FROM objects) AS rows,
       (coalesce((SELECT sum(hashtextextended(ROW(loid, bytes)::text COLLATE "C", 0)) FROM objects), 0)
      + coalesce((SELECT sum(hashtextextended(ROW(loid, pageno, content)::text COLLATE "C", 0))
                  FROM pages WHERE content <> '\x'), 0))::text AS hash;
COPY (
    SELECT 'wrong', 'content', format('%I.%I has as many rows, but others', schema_name, name)
    FROM pg_temp.expected_table AS e JOIN pg_temp.content AS c USING (schema_name, name)
    WHERE c.rows = e.rows AND c.hash <> e.hash
  UNION ALL
    SELECT 'wrong', 'content', format('large objects differ: %s restored, the source had %s', l.rows, e.rows)
    FROM pg_temp.large_object AS l, pg_temp.expected_large_objects AS e
    WHERE (l.rows, l.hash) IS DISTINCT FROM (e.rows, e.hash)
) TO STDOUT;
\endif

COPY (
    WITH key AS (
        SELECT n.nspname, c.relname, k.conname, k.convalidated
        FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE k.contype = 'f' AND k.conparentid = 0
    )
    SELECT 'count', 'foreign keys', count(*)::text FROM key
  UNION ALL
    SELECT 'note', 'foreign keys', format('%I on %I.%I is NOT VALID, as in the source', conname, nspname, relname)
    FROM key WHERE NOT convalidated
  UNION ALL
    SELECT 'wrong', 'foreign keys', format('%I on %I.%I held in the source and does not here', e.name, e.schema_name, e.table_name)
    FROM pg_temp.expected_key AS e
    LEFT JOIN key AS k ON (k.nspname, k.relname, k.conname) = (e.schema_name, e.table_name, e.name)
    WHERE e.validated AND k.convalidated IS NOT TRUE AND e.name NOT IN (SELECT name FROM pg_temp.violated)
  UNION ALL
    SELECT 'violated', 'foreign keys', format('%I', name) FROM pg_temp.violated
  UNION ALL
    SELECT 'count', 'indexes', count(*)::text FROM pg_index
  UNION ALL
    SELECT 'wrong', 'indexes', format('%I.%I is not valid', n.nspname, c.relname)
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
  UNION ALL
    SELECT 'count', 'sequences', count(*)::text FROM pg_temp.expected_sequence
  UNION ALL
    SELECT 'wrong', 'sequences', format('%I.%I is at %s, the source was at %s', e.schema_name, e.name,
                                        coalesce(s.last_value::text, 'its start'), e.last_value)
    FROM pg_temp.expected_sequence AS e
    LEFT JOIN pg_sequences AS s ON (s.schemaname, s.sequencename) = (e.schema_name, e.name)
    WHERE e.last_value IS NOT NULL AND (s.last_value IS NULL OR (s.last_value - e.last_value) * e.increment < 0)
) TO STDOUT;

-- Large objects by content. A restored object has zero bytes where the source had holes, and other page ends:
-- so pages count without their trailing zeros, empty pages not at all, and each object's length on its own.
WITH pages AS (
    SELECT p.loid, p.pageno, p.data, pg_catalog.rtrim(p.data, '\x00'::bytea) AS content
    FROM pg_catalog.pg_largeobject AS p
), objects AS (
    SELECT m.oid AS loid, coalesce(max(p.pageno::bigint * 2048 + pg_catalog.length(p.data)), 0) AS bytes
    FROM pg_catalog.pg_largeobject_metadata AS m
    LEFT JOIN pages AS p ON p.loid = m.oid
    GROUP BY m.oid
)
SELECT (SELECT count(*) FROM objects) AS rows,
       coalesce((SELECT sum(pg_catalog.hashtextextended(ROW(loid, bytes)::text COLLATE "C", 0)) FROM objects), 0)
     + coalesce((SELECT sum(pg_catalog.hashtextextended(ROW(loid, pageno, content)::text COLLATE "C", 0))
                 FROM pages WHERE content <> '\x'), 0) AS hash

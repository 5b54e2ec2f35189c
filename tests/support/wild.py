"""Databases as nobody would plan them, and somebody has them: each must be backed up, restored and found equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from psycopg import sql

PWNED = Path("/tmp/pgbackup_was_here")  # noqa: S108 - nobody makes it
NAMES = (
    'we"ird; DROP DATABASE postgres; --',
    "two  spaces ",
    f"$(touch {PWNED})`touch {PWNED}`",
    "%s %(x)s {} %",
    "Größe_電影_🎬",
    "it's",
    "back\\slash\\",
    "../up/and/away",
    ".hidden",
    "-d postgres",
    "host=evil dbname=postgres",
    "postgresql://evil/postgres",
    "key.1",
    "globals.sql",
    "x" * 63,
    "a.dir.tar",
    "new\nline\r\\restrict x",
)
"""Of everything in a database."""
DATABASE_NAMES = tuple(name for name in NAMES if not name.startswith(("two", "%s", "it's", "-d", "globals", "a.dir")))

FEATURES: dict[str, str] = {
    "empty": "",
    "without public": "DROP SCHEMA public",
    "without columns": """
        CREATE TABLE bare (); INSERT INTO bare SELECT FROM generate_series(1, 7);
        CREATE TABLE t (t text, a integer, bare integer); INSERT INTO t VALUES ('t', 1, 2), (NULL, NULL, NULL);
        CREATE TABLE a (a text); INSERT INTO a VALUES ('x'), (''), (NULL)
    """,
    "unlogged": "CREATE UNLOGGED TABLE fast (a integer PRIMARY KEY); INSERT INTO fast SELECT generate_series(1, 50)",
    "stale": """
        CREATE TABLE base (a integer); INSERT INTO base VALUES (1);
        CREATE MATERIALIZED VIEW stale AS SELECT a FROM base;
        CREATE MATERIALIZED VIEW on_stale AS SELECT a FROM stale;
        CREATE MATERIALIZED VIEW never AS SELECT a FROM base WITH NO DATA;
        CREATE UNIQUE INDEX ON stale (a);
        INSERT INTO base VALUES (2)
    """,
    "not valid": """
        CREATE TABLE parent (a integer PRIMARY KEY);
        CREATE TABLE child (a integer, b integer CHECK (b > 0) NOT ENFORCED);
        INSERT INTO child VALUES (1, -1), (2, 1);
        ALTER TABLE child ADD CONSTRAINT dangling FOREIGN KEY (a) REFERENCES parent NOT VALID;
        ALTER TABLE child ADD CONSTRAINT positive CHECK (b > 0) NOT VALID
    """,
    "violated": """
        CREATE TABLE parent (a integer PRIMARY KEY);
        CREATE TABLE child (a integer CONSTRAINT "broken ""word"" here" REFERENCES parent);
        SET session_replication_role = replica;
        INSERT INTO child VALUES (1);
        RESET session_replication_role
    """,
    "row security": """
        CREATE TABLE secret (owner text, v text);
        INSERT INTO secret VALUES ('app', 'a'), ('nobody', 'b');
        ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
        ALTER TABLE secret FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON secret TO readonly, app, backup USING (owner = current_user);
        CREATE POLICY others ON secret AS RESTRICTIVE FOR SELECT TO app, readonly USING (v <> 'c')
    """,
    "generated": """
        CREATE TABLE made (a integer, b integer GENERATED ALWAYS AS (a * 2) STORED,
                           c integer GENERATED ALWAYS AS (a * 3) VIRTUAL,
                           d integer GENERATED ALWAYS AS IDENTITY, e timestamptz DEFAULT now());
        INSERT INTO made (a) SELECT generate_series(1, 20)
    """,
    "large objects": """
        SELECT lo_from_bytea(80000, 'plain');
        SELECT lo_from_bytea(80001, ''), lo_put(80001, 300000, 'behind a hole');
        SELECT lo_from_bytea(80002, '');
        SELECT lo_from_bytea(80003, decode(repeat('00', 5000), 'hex'));
        SELECT lo_from_bytea(80004, 'long'), lo_truncate64(lo_open(80004, 131072), 5000);
        ALTER LARGE OBJECT 80000 OWNER TO app;
        GRANT SELECT ON LARGE OBJECT 80001 TO readonly;
        COMMENT ON LARGE OBJECT 80000 IS 'first'
    """,
    "partitions": """
        CREATE TABLE event (id bigint, at date, kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE event_old PARTITION OF event FOR VALUES FROM (MINVALUE) TO ('2026-01-01') PARTITION BY HASH (id);
        CREATE TABLE event_old_0 PARTITION OF event_old FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE event_old_1 PARTITION OF event_old FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE event_rest PARTITION OF event DEFAULT;
        CREATE TABLE detached (LIKE event INCLUDING ALL); INSERT INTO detached VALUES (0, '2020-01-01', 'gone');
        CREATE TABLE none (a integer) PARTITION BY LIST (a);
        CREATE INDEX ON event (kind);
        CREATE TABLE note (id bigint, at date, FOREIGN KEY (id, at) REFERENCES event);
        INSERT INTO event SELECT i, DATE '2025-12-01' + i, 'k' || i % 3 FROM generate_series(1, 60) AS i;
        INSERT INTO note SELECT id, at FROM event
    """,
    "inherited": """
        CREATE TABLE parent (a integer, b text);
        CREATE TABLE child (c text, d integer) INHERITS (parent);
        ALTER TABLE parent ADD COLUMN e text DEFAULT 'late';
        ALTER TABLE child DROP COLUMN d;
        CREATE TABLE other (e text, b text, a integer);
        ALTER TABLE other INHERIT parent;
        INSERT INTO parent VALUES (1, 'p', 'x'); INSERT INTO child (a, b, c, e) VALUES (2, 'c', 'only', 'y');
        INSERT INTO other VALUES ('z', 'o', 3)
    """,
    "sequences": """
        CREATE SEQUENCE ahead; SELECT nextval('ahead') FROM generate_series(1, 40);
        CREATE SEQUENCE down INCREMENT -1; SELECT nextval('down') FROM generate_series(1, 3);
        CREATE SEQUENCE untouched START 7;
        CREATE SEQUENCE round MAXVALUE 3 CYCLE; SELECT nextval('round') FROM generate_series(1, 4);
        CREATE SEQUENCE cached CACHE 50; SELECT nextval('cached');
        CREATE SEQUENCE small AS smallint MINVALUE -5 START -5; SELECT nextval('small');
        CREATE UNLOGGED SEQUENCE light; SELECT nextval('light')
    """,
    "cycles": """
        CREATE TABLE hen (id integer PRIMARY KEY, egg integer);
        CREATE TABLE egg (id integer PRIMARY KEY, hen integer REFERENCES hen);
        ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
        CREATE TABLE tree (id integer PRIMARY KEY, parent integer REFERENCES tree ON DELETE CASCADE);
        BEGIN; INSERT INTO hen VALUES (1, 1); INSERT INTO egg VALUES (1, 1); COMMIT;
        INSERT INTO tree VALUES (1, 1), (2, 1)
    """,
    "no more ddl": """
        CREATE FUNCTION stop() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no %'', tg_tag; END';
        CREATE TABLE t (a integer PRIMARY KEY); INSERT INTO t VALUES (1);
        CREATE EVENT TRIGGER stop ON ddl_command_start EXECUTE FUNCTION stop()
    """,
    "read only": """
        CREATE TABLE t (a integer PRIMARY KEY); INSERT INTO t VALUES (1);
        ALTER DATABASE "read only" SET default_transaction_read_only = on
    """,
    "settings": """
        CREATE TABLE t (a date, b interval, c double precision);
        INSERT INTO t VALUES ('2026-02-03', '-1 day 2 hours', 0.1);
        ALTER DATABASE settings SET DateStyle = 'SQL, DMY';
        ALTER DATABASE settings SET IntervalStyle = sql_standard;
        ALTER DATABASE settings SET extra_float_digits = -3;
        ALTER DATABASE settings SET search_path = nowhere;
        ALTER DATABASE settings SET row_security = off;
        ALTER DATABASE settings SET statement_timeout = '1s';
        ALTER DATABASE settings SET lock_timeout = '1ms';
        ALTER DATABASE settings SET transaction_timeout = '50ms';
        ALTER DATABASE settings SET app.word = 'it''s "x"\\';
        ALTER ROLE app IN DATABASE settings SET work_mem = '7MB'
    """,
    "elsewhere": """
        CREATE TABLE moved (a integer PRIMARY KEY); INSERT INTO moved VALUES (1);
        CREATE TABLE home (a integer PRIMARY KEY) TABLESPACE pg_default; INSERT INTO home VALUES (1)
    """,
    "scattered": """
        CREATE TABLE moved (a integer PRIMARY KEY) TABLESPACE "other; place"; INSERT INTO moved VALUES (1);
        CREATE TABLE parts (a integer) PARTITION BY LIST (a) TABLESPACE "other; place";
        CREATE TABLE part PARTITION OF parts FOR VALUES IN (1);
        ALTER DATABASE scattered SET default_tablespace = 'other; place'
    """,
    "latin": "CREATE TABLE t (a text); INSERT INTO t VALUES ('\u00e9t\u00e9'), ('ete')",
    "bytes": "CREATE TABLE t (a text); INSERT INTO t VALUES (E'\\\\xff\\\\xfe'), (E'\\\\xc3\\\\xa9')",
    "builtin": "CREATE TABLE t (a text PRIMARY KEY); INSERT INTO t VALUES ('\u00e9'), ('E'), ('e')",
    "foreign": """
        CREATE EXTENSION file_fdw; CREATE FOREIGN DATA WRAPPER nobody;
        CREATE SERVER far FOREIGN DATA WRAPPER nobody OPTIONS (host '127.0.0.1', port '1');
        CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
        CREATE FOREIGN TABLE passwd (line text) SERVER files OPTIONS (filename '/etc/hostname', format 'text');
        CREATE USER MAPPING FOR app SERVER far OPTIONS (user 'app', password 'never to be seen');
        CREATE FOREIGN TABLE far_away (a integer) SERVER far;
        CREATE TABLE near (a integer); INSERT INTO near VALUES (1)
    """,
    "replicated": """
        CREATE TABLE t (a integer PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'x');
        CREATE PUBLICATION part_of_it FOR TABLE t (a) WHERE (a > 0) WITH (publish = 'insert');
        CREATE PUBLICATION everything FOR ALL TABLES;
        CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=1 password=hidden' PUBLICATION p
            WITH (connect = false, slot_name = NONE)
    """,
    "rights": """
        CREATE TABLE t (a integer, b integer); INSERT INTO t VALUES (1, 2);
        GRANT SELECT (a), UPDATE (b) ON t TO app WITH GRANT OPTION;
        REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO readonly;
        ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO readonly;
        ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
        CREATE FUNCTION f() RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = '' AS 'SELECT 1';
        REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC;
        ALTER TABLE t OWNER TO app; ALTER FUNCTION f() OWNER TO readonly
    """,
    "kinds of object": """
        CREATE TYPE mood AS ENUM ('b', 'a'); ALTER TYPE mood ADD VALUE 'aa' BEFORE 'a';
        CREATE TYPE pair AS (x integer, y text); CREATE DOMAIN few AS integer DEFAULT 3 CHECK (VALUE < 10);
        CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
        CREATE FUNCTION plus(pair, pair) RETURNS pair LANGUAGE sql AS 'SELECT ROW($1.x + $2.x, $1.y)::public.pair';
        CREATE OPERATOR + (LEFTARG = pair, RIGHTARG = pair, FUNCTION = plus);
        CREATE AGGREGATE total (pair) (SFUNC = plus, STYPE = pair);
        CREATE FUNCTION low(pair) RETURNS integer LANGUAGE sql AS 'SELECT $1.x';
        CREATE CAST (pair AS integer) WITH FUNCTION low(pair);
        CREATE TEXT SEARCH CONFIGURATION simple_one (COPY = simple);
        CREATE COLLATION plain (provider = builtin, locale = 'C');
        CREATE TABLE t (a integer, b text COLLATE plain, c mood, d pair, e few, f span,
                        EXCLUDE USING gist (f WITH &&), UNIQUE NULLS NOT DISTINCT (a), CHECK (a <> 13));
        CREATE STATISTICS s (ndistinct) ON a, b FROM t;
        CREATE VIEW v WITH (security_barrier) AS SELECT a FROM t WITH CHECK OPTION;
        CREATE RULE r AS ON INSERT TO v DO INSTEAD NOTHING;
        CREATE PROCEDURE p(INOUT x integer) LANGUAGE plpgsql AS 'BEGIN x := x + 1; END';
        CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER on_t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tf('it''s', 'x');
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION tf();
        ALTER TABLE t DISABLE TRIGGER on_t; ALTER TABLE t ENABLE REPLICA TRIGGER late;
        CREATE INDEX ON t (lower(b)) WHERE a > 1; CREATE INDEX ON t USING brin (a) WITH (pages_per_range = 4);
        ALTER TABLE t SET (fillfactor = 70, autovacuum_enabled = off); ALTER TABLE t REPLICA IDENTITY FULL;
        ALTER TABLE t ALTER b SET STORAGE EXTERNAL, ALTER b SET COMPRESSION lz4, ALTER a SET STATISTICS 500;
        CLUSTER t USING t_a_key;
        COMMENT ON COLUMN t.a IS 'it''s; \\restrict'; COMMENT ON TYPE mood IS '';
        COMMENT ON FUNCTION plus IS E'two\\nlines';
        INSERT INTO t VALUES (1, 'x', 'aa', ROW(1, 'y'), 4, '[1,2)'), (NULL, NULL, NULL, NULL, NULL, NULL)
    """,
    "big row": """
        CREATE TABLE t (a text);
        INSERT INTO t SELECT string_agg(md5(i::text), '') FROM generate_series(1, 100000) AS i
    """,
}
OPTIONS: dict[str, str] = {
    "latin": "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    "bytes": "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
    "builtin": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' TEMPLATE template0",
    "elsewhere": 'TABLESPACE "other; place"',
}


def create(name: str) -> sql.Composed:
    return sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), sql.SQL(OPTIONS.get(name, "")))


def everything_named(name: str) -> Iterator[sql.Composed]:
    """A role, and objects of its, that all have one name, wherever a name can be."""
    statements = """
        CREATE ROLE {0} LOGIN PASSWORD {1};
        COMMENT ON ROLE {0} IS {1};
        ALTER ROLE {0} SET app.word = {1};
        GRANT app TO {0} WITH ADMIN OPTION;
        CREATE SCHEMA {0} AUTHORIZATION {0};
        CREATE TABLE {0}.{0} ({0} text CONSTRAINT {0} CHECK ({0} <> {1} || '!'), other serial PRIMARY KEY);
        COMMENT ON TABLE {0}.{0} IS {1};
        COMMENT ON COLUMN {0}.{0}.{0} IS {1};
        ALTER TABLE {0}.{0} OWNER TO {0};
        INSERT INTO {0}.{0} ({0}) VALUES ({1}), (''), (NULL);
        CREATE INDEX {2} ON {0}.{0} ({0});
        CREATE VIEW {3} AS SELECT {0} FROM {0}.{0};
        CREATE MATERIALIZED VIEW {4} AS SELECT {0} FROM {0}.{0};
        CREATE FUNCTION {0}.{0}({0} text DEFAULT {1}) RETURNS text LANGUAGE sql AS 'SELECT $1';
        CREATE TYPE {5} AS ENUM ({1});
        CREATE POLICY {0} ON {0}.{0} TO {0} USING (true);
        GRANT SELECT ({0}) ON {0}.{0} TO {0} WITH GRANT OPTION;
        ALTER ROLE {0} IN DATABASE names SET app.word = {1}
    """
    parts = (
        sql.Identifier(name),
        sql.Literal(name),
        sql.Identifier(f"i{name}"),
        sql.Identifier(name, f"v{name}"),
        sql.Identifier(name, f"m{name}"),
        sql.Identifier(name, f"e{name}"),
    )
    for statement in statements.split(";\n"):
        yield sql.SQL(statement).format(*parts)

#!/bin/sh
# Restore a database, or one table of it, from a full backup - beside what is there. Nothing that exists is changed or
# dropped: the restored database gets a name of its own, and only when it is complete. What switches over to it is
# printed, not run.

here=$(dirname "$(readlink -f "$0")") || exit 3
# shellcheck source=include/scripts/common.sh
. "$here/common.sh"
# shellcheck source=include/scripts/sql_text.sh
. "$here/sql_text.sh"

usage() {
    cat <<'EOF'
usage: restore.sh DIR --list
       restore.sh DIR --list --database NAME
       restore.sh DIR --database NAME --to CONNINFO [--as NEW] [--table SCHEMA.TABLE] [--globals] [options]
       restore.sh DIR --globals --to CONNINFO [options]

DIR is the folder of one full backup, such as /backups/full/streamflix_20260131_020000_full.

  --list                  what the backup holds; with --database (and a key), the tables of a database
  --database NAME         the database to restore, written as it is: no quotes, upper case is upper case
  --to CONNINFO           the server, such as "host=db2 user=postgres" or "service=recovery"; a role that may create
                          databases. No password in it: ~/.pgpass or PGPASSFILE is read
  --as NEW                name of the restored database (default NAME_restored_<time>); it must not exist
  --table SCHEMA.TABLE    only this table's rows, with its partitions; the other tables are there and empty
  --globals               first create the roles of the backup that do not exist; roles that exist are left as they are
  --tablespaces           put things into tablespaces of the same name; they must exist (default: none are used)
  --jobs N                restore with N connections (JOBS, default 4)
  --key FILE              private key that opens the backup (default: the keys of your own gpg home)
  --passphrase-file FILE  passphrase of the private key (default: gpg-agent knows it, or asks)
  --bin DIR               folder of PostgreSQL's programs (PG_BIN)
  --work DIR              where the decrypted dump goes (TMPDIR, default /tmp)
  --help

exit status: 0 restored, 1 not restored or only in part: the backup is damaged, the name is taken, or statements failed,
             2 called wrongly, 3 server, key, disk or program at fault
EOF
}

directory=
list=no
database=
new=
table=
to=
globals=no
jobs=${JOBS:-4}
key=
passphrase_file=
bin=${PG_BIN:-}
work_parent=${TMPDIR:-/tmp}
tablespaces=--no-tablespaces

while [ $# -gt 0 ]; do
    case $1 in
        --*=*) option=$1 && shift && set -- "${option%%=*}" "${option#*=}" "$@" ;;
    esac
    case $1 in
        --help | -h) usage && exit 0 ;;
        --list) list=yes && shift && continue ;;
        --globals) globals=yes && shift && continue ;;
        --tablespaces) tablespaces='' && KEEP_TABLESPACE=yes && shift && continue ;;
        --database | --as | --table | --to | --jobs | --key | --passphrase-file | --bin | --work)
            [ $# -ge 2 ] || usage_error "$1 needs a value"
            [ -n "$2" ] || usage_error "$1 is empty"
            ;;
        -*) usage_error "unknown option: $1" ;;
        *)
            [ -z "$directory" ] || usage_error "one backup at a time: $directory or $1"
            directory=$1
            shift
            continue
            ;;
    esac
    case $1 in
        --database) database=$2 ;;
        --as) new=$2 ;;
        --table) table=$2 ;;
        --to) to=$2 ;;
        --jobs) jobs=$2 ;;
        --key) key=$2 ;;
        --passphrase-file) passphrase_file=$2 ;;
        --bin) bin=$2 ;;
        --work) work_parent=$2 ;;
    esac
    shift 2
done
export KEEP_TABLESPACE="${KEEP_TABLESPACE:-no}"

[ -n "$directory" ] || usage_error "which backup? give its folder"
case $jobs in '' | 0* | *[!0-9]*) usage_error "not a number of connections: $jobs" ;; esac
if [ "$list" = no ]; then
    [ -n "$database" ] || [ "$globals" = yes ] || usage_error "what is to be restored? --list, --database or --globals"
    [ -n "$to" ] || usage_error "to which server? --to \"host=... user=...\""
fi
[ -n "$database" ] || [ -z "$new$table" ] || usage_error "--as and --table need --database"
case $to in
    *://*) usage_error "--to takes \"host=... port=... user=...\", not an address with ://" ;;
    *password*=*) usage_error "no password in --to: every user of this machine could read it; use ~/.pgpass" ;;
esac
case $table in
    '' | ?*.?*) ;;
    *) usage_error "--table needs a schema, too: public.$table" ;;
esac
stamp=$(date -u +%Y%m%d_%H%M%S) || fail "$ENVIRONMENT" "date failed"
if [ -z "$new" ] && [ -n "$database" ]; then
    new=${database}_restored_$stamp
    [ "${#new}" -le 63 ] || usage_error "the name is too long for _restored_$stamp: name the restored database with --as"
fi
[ "${#new}" -le 63 ] || usage_error "a database's name has 63 bytes at most: $new"

list_databases() {
    printf '%-32s %-10s %12s  %s\n' DATABASE FORMAT kB FILE
    while IFS= read -r name <&3; do
        plain=${name%.gpg}
        case $plain in
            *.dump) format=custom && plain=${plain%.dump} ;;
            *.dir.tar) format=directory && plain=${plain%.dir.tar} ;;
            *) continue ;;
        esac
        hex_of_file_name "$plain"
        size=$(du -k "$directory/$name") || fail "$NO" "$name is missing" "$directory" "use another copy of this backup"
        printf '%-32s %-10s %12s  %s\n' "$(shown "$hex")" "$format" "${size%%[!0-9]*}" "$name"
    done 3<"$work/names"
}

# Which stored files are needed, and that they are what was stored.
choose_files() {
    : >"$work/needed"
    dump=
    if [ -n "$database" ]; then
        hex_of "$database"
        database_hex=$hex
        encoded=$(file_name_of "$hex")
        for suffix in dump.gpg dir.tar.gpg dump dir.tar; do
            if listed "$encoded.$suffix"; then dump=$encoded.$suffix; fi
        done
        [ -n "$dump" ] || fail "$NO" "the backup holds no database $(shown "$hex")" "$directory" "$me $directory --list"
        printf '%s\n' "$dump" >>"$work/needed"
    fi
    roles=
    if [ "$globals" = yes ]; then
        for name in globals.sql.gpg globals.sql; do
            if listed "$name"; then roles=$name; fi
        done
        [ -n "$roles" ] || fail "$NO" "the backup holds no globals.sql" "$directory" "is it a full backup?"
        printf '%s\n' "$roles" >>"$work/needed"
    fi
    awk 'NR == FNR { needed[$0]; next } substr($0, 67) in needed' "$work/needed" "$work/sums" >"$work/needed.sums" ||
        fail "$ENVIRONMENT" "awk failed"
    check_sums "$directory" "$work/needed.sums"
}

# Set $archive and $roles_file to readable files.
open_files() {
    kilobytes=0
    for name in $dump $roles; do # percent-encoded: no blanks
        size=$(du -k "$directory/$name") || fail "$ENVIRONMENT" "cannot measure $name"
        kilobytes=$((kilobytes + ${size%%[!0-9]*}))
    done
    case $dump in *.dir.tar.gpg) kilobytes=$((2 * kilobytes)) ;; esac # the tar, and what is in it
    case $dump$roles in *.gpg*) ;; *.dump* | *.sql*) kilobytes=0 ;; esac # used where it is
    need_space "$kilobytes" "$work"
    case $dump$roles in *.gpg*) open_key "$directory" "$key" "$passphrase_file" ;; esac
    mkdir "$work/files" || fail "$ENVIRONMENT" "cannot make $work/files"
    open_one "$dump"
    archive=$opened
    case $archive in
        *.dir.tar)
            unpack "$archive" "$work/files/archive"
            case $dump in *.gpg) rm -f "$archive" ;; esac
            archive=$work/files/archive
            ;;
    esac
    open_one "$roles"
    roles_file=$opened
}

open_one() {
    opened=
    case $1 in
        '') ;;
        *.gpg)
            decrypt "$directory/$1" "$work/files/${1%.gpg}"
            opened=$work/files/${1%.gpg}
            ;;
        *) opened=$directory/$1 ;;
    esac
}

# sql CONNINFO ARGUMENTS...: one session; what it prints is data. Names are bytes.
sql() {
    sql_conninfo=$1
    shift
    PGCLIENTENCODING=SQL_ASCII attend psql --no-psqlrc --no-password --quiet --tuples-only --no-align \
        --set=ON_ERROR_STOP=1 --dbname="$sql_conninfo" "$@"
}

exists() {
    text_of "$1"
    echo "SELECT 1 FROM pg_catalog.pg_database WHERE datname = :'name'" >"$work/exists.sql"
    sql "$maintenance" --set=name="$text" --file="$work/exists.sql" >"$work/exists" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot ask the server for its databases" "$work/err"
    [ -s "$work/exists" ]
}

look_at_server() {
    # A dbname in --to wins; without one, the database that every server has.
    maintenance="dbname='postgres' $to"
    sql "$maintenance" --command="SELECT current_setting('server_version_num')::int / 10000" >"$work/version" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot connect to the server" "$work/err" "check --to and ~/.pgpass"
    server=$(cat "$work/version")
    [ -n "$new" ] || return 0
    hex_of "$new"
    new_hex=$hex
    if exists "$new_hex"; then
        fail "$NO" "database $(shown "$new_hex") exists already, and nothing is overwritten" "" "choose another name with --as"
    fi
}

restore_globals() {
    sql "$maintenance" --command='SELECT quote_ident(rolname) FROM pg_catalog.pg_roles' >"$work/roles" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot list the server's roles" "$work/err"
    missing_globals "$roles_file" "$work/roles" >"$work/globals.sql" || fail "$NO" "$roles is not what pg_dumpall writes"
    sql "$maintenance" --single-transaction --file="$work/globals.sql" >"$work/out" 2>"$work/err" ||
        fail_from "$NO" "the roles cannot be created, and none was" "$work/err"
    say "$me: $(grep -c '^CREATE ROLE ' "$work/globals.sql" || :) roles created; roles that existed are unchanged, tablespaces are not created"
}

# pg_restore goes on after a failed statement, so that one missing role does not cost the night; we count, and tell.
run_pg_restore() {
    # shellcheck disable=SC2086 # one option or none
    if attend pg_restore $tablespaces --no-subscriptions --no-password --dbname="$target" "$@" "$archive" >"$work/out" 2>"$work/err"; then
        return 0
    fi
    cat "$work/err" >>"$work/errors"
    if grep -q -E 'error: connection to server|server closed the connection|terminating connection|No space left on device' "$work/err"; then
        fail_from "$ENVIRONMENT" "the restore was interrupted; unfinished: database $unfinished" "$work/err" "$drop_it"
    fi
    failed_statements "$work/err" >"$work/failed"
    grep -q 'errors ignored on restore' "$work/err" && [ -s "$work/failed" ] || echo 'pg_restore ended early' >>"$work/failed"
    failures=$((failures + $(wc -l <"$work/failed")))
}

create_database() {
    attend pg_restore --list "$archive" >"$work/toc.all" 2>"$work/err" ||
        fail_by "pg_restore cannot read $dump" "$work/err"
    from=$(sed -n 's/^;  *Dumped from database version: \([0-9]*\).*/\1/p' "$work/toc.all")
    [ "${from:-0}" -le "$server" ] || say "$me: warning: the dump is of PostgreSQL $from, the server is $server: some statements may fail"
    if [ -n "$table" ]; then check_table; fi
    # Complete databases get their names, others keep this one.
    unfinished=restoring_${stamp}_$$
    : >"$work/create.sql"
    : >"$work/properties.sql"
    header "$archive" "$unfinished" "$work/create.sql" "$work/properties.sql"
    sql "$maintenance" --file="$work/create.sql" >"$work/out" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "the database cannot be created" "$work/err" "may this role create databases? is the locale installed there?"
    target="$to dbname='$unfinished'"
    drop_it="look at it, then: DROP DATABASE $unfinished;"
    : >"$work/errors"
    failures=0
}

restore_database() {
    say "$me: restoring into $unfinished, which gets its name when it is complete"
    run_pg_restore --jobs="$jobs"
}

# The list prints "schema name" with a blank: every dot of SCHEMA.TABLE may be the one between them.
check_table() {
    TABLE=$table awk '
        BEGIN { table = ENVIRON["TABLE"]; for (i = 2; i < length(table); i++)
                    if (substr(table, i, 1) == ".") wanted[substr(table, 1, i - 1) " " substr(table, i + 1) " "] }
        $4 == "TABLE" { rest = substr($0, index($0, " TABLE ") + 7)
                        for (one in wanted) if (index(rest, one) == 1) found = 1 }
        END { exit !found }' "$work/toc.all" ||
        fail "$NO" "$table is no table of this dump" "" "$me $directory --list --database NAME; names are written without quotes"
}

# pg_restore --table of a partitioned table restores no rows: they are its partitions'. And a table alone has not the
# types, functions and sequences that it needs. So: all definitions; the rows of the table and of everything below it;
# then all indexes. Foreign keys stay out: what they refer to is empty here.
restore_table() {
    say "$me: restoring $table into $unfinished, which gets its name when it is complete"
    run_pg_restore --section=pre-data --jobs="$jobs"
    cat >"$work/tree.sql" <<'EOF'
WITH RECURSIVE tree AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname = :'table' AND c.relkind IN ('r', 'p')
  UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN tree ON tree.oid = i.inhparent
), relations AS (
    SELECT oid FROM tree
  UNION
    SELECT d.objid FROM pg_catalog.pg_depend AS d JOIN tree ON tree.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
)
SELECT encode(convert_to(n.nspname, getdatabaseencoding()), 'hex'), encode(convert_to(c.relname, getdatabaseencoding()), 'hex')
FROM relations AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S')
EOF
    sql "$target" --field-separator=' ' --set=table="$table" --file="$work/tree.sql" >"$work/tree" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot find $table and its partitions; unfinished: database $unfinished" "$work/err" "$drop_it"
    while read -r schema_hex name_hex <&3; do
        text_of "$schema_hex"
        schema=$text
        text_of "$name_hex"
        run_pg_restore --data-only --schema="$schema" --table="$text"
    done 3<"$work/tree"
    awk '!($4 == "FK" && $5 == "CONSTRAINT") && !($4 == "MATERIALIZED" && $5 == "VIEW" && $6 == "DATA") &&
         !($4 == "EVENT" && $5 == "TRIGGER") && $4 != "PUBLICATION"' "$work/toc.all" >"$work/toc.table"
    run_pg_restore --section=post-data --use-list="$work/toc.table" --jobs="$jobs"
}

# Give it its name; what could not be done is said first.
publish() {
    sql "$maintenance" --set=ON_ERROR_STOP=0 --file="$work/properties.sql" >"$work/out" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "the restore was interrupted; unfinished: database $unfinished" "$work/err" "$drop_it"
    if grep 'ERROR:' "$work/err" >"$work/refused"; then
        failures=$((failures + $(wc -l <"$work/refused")))
        cat "$work/refused" >>"$work/errors"
        say "$me: owner, settings or grants could not be set; to be run by hand, with the restored database's name:"
        sed 's/^/  /' "$work/properties.sql" >&2
    fi
    if [ "$failures" -gt 0 ]; then
        head -n 60 "$work/errors" | sed 's/^/  /' >&2 || :
        sed -n 's/.*ERROR:  role "\(.*\)" does not exist$/\1/p' "$work/errors" | sort -u >"$work/missing" || :
        if [ -s "$work/missing" ]; then
            say "$me: roles are missing on this server: $(tr '\n' ' ' <"$work/missing")"
            say "  hint: drop what was restored, and repeat with --globals"
        fi
        fail "$NO" "$failures statements failed, see above; what could be restored is in database $unfinished" "" "$drop_it"
    fi
    identifier_of "$new_hex"
    sql "$maintenance" --command="ALTER DATABASE $unfinished RENAME TO $identifier" >"$work/out" 2>"$work/err" ||
        fail_from "$NO" "restored into $unfinished, which cannot get its name" "$work/err" "ALTER DATABASE $unfinished RENAME TO $identifier;"
    say "$me: $(shown "$database_hex") of ${directory##*/} is restored as $(shown "$new_hex")"
}

# literal_of HEX: set $literal to the text as SQL quotes it.
literal_of() {
    literal_hex=$(printf '%s\n' "$1" | sed 's/../&,/g; s/27,/2727,/g; s/,//g')
    text_of "$literal_hex"
    literal="'$text'"
}

print_table_hint() {
    cat >"$work/count.sql" <<'EOF'
SELECT format('SELECT count(*) FROM %I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = :'table' AND c.relkind IN ('r', 'p')
\gexec
EOF
    conninfo_of "$new_hex"
    sql "$to $conninfo" --set=table="$table" --file="$work/count.sql" >"$work/count" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot count the restored rows" "$work/err"
    cat <<EOF
$table: $(cat "$work/count") rows
Every other table of this database is empty on purpose: do not put it in the place of the live one.
Foreign keys and large objects of the table are not restored. Copy the rows that you need with psql:
  \\copy (SELECT * FROM ...) TO 'rows.tsv'     here, and   \\copy ... FROM 'rows.tsv'   there
EOF
}

print_cutover() {
    identifier_of "$new_hex"
    fresh=$identifier
    identifier_of "$database_hex"
    live=$identifier
    old=${database}_before_$stamp
    [ "${#old}" -le 63 ] || old=before_$stamp
    hex_of "$old"
    identifier_of "$hex"
    elsewhere=postgres # a database cannot be renamed from within
    if [ "$database" = postgres ]; then elsewhere=template1; fi
    quoted=$(printf '%s\n' "$to" | sed "s/'/'\\\\''/g") # may stand between single quotes in a shell
    psql="psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname='$quoted dbname=$elsewhere' <<'SQL'"
    printf '%s\n' "# Nothing below was run." ""
    if ! exists "$database_hex"; then
        printf '%s\n' "# Give it the name that the application uses:" "$psql" "ALTER DATABASE $fresh RENAME TO $live;" "SQL"
        return
    fi
    literal_of "$database_hex"
    live_literal=$literal
    literal_of "$new_hex"
    printf '%s\n' "# Put it in the place of the live database, which is kept until you drop it:" \
        "$psql" \
        "ALTER DATABASE $live ALLOW_CONNECTIONS false;" \
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname IN ($live_literal, $literal);" \
        "BEGIN;" \
        "ALTER DATABASE $live RENAME TO $identifier;" \
        "ALTER DATABASE $fresh RENAME TO $live;" \
        "COMMIT;" \
        "SQL" "" \
        "# Should a RENAME fail, nothing was swapped: let the application in again." \
        "$psql" \
        "ALTER DATABASE $live ALLOW_CONNECTIONS true;" \
        "SQL"
}

make_work "$work_parent"
find_postgres pg_restore "$bin"
require psql sha256sum awk sed od tar
read_sums "$directory"
directory=$(cd "$directory" && pwd -P) || fail "$ENVIRONMENT" "cannot enter $directory"
if [ "$list" = yes ] && [ -z "$database" ]; then
    list_databases
    exit 0
fi
choose_files
if [ "$list" = yes ]; then
    open_files
    attend pg_restore --list "$archive" >"$work/toc.all" 2>"$work/err" ||
        fail_by "pg_restore cannot read $dump" "$work/err"
    if ! awk '$4 == "TABLE" && $5 != "DATA" && $5 != "ATTACH" {
        sub(/^.* TABLE /, ""); sub(/ [^ ]*$/, ""); sub(/ /, "."); print }' "$work/toc.all" >"$work/tables" || ! sort "$work/tables"; then
        fail "$ENVIRONMENT" "awk or sort failed"
    fi
    exit 0
fi
look_at_server
open_files
[ "$globals" = no ] || restore_globals
[ -n "$database" ] || exit 0
create_database
if [ -n "$table" ]; then restore_table; else restore_database; fi
publish
if [ -n "$table" ]; then print_table_hint; else print_cutover; fi

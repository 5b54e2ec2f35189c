#!/bin/sh
# Prove that a full backup can be restored: check every byte, decrypt and decode everything, restore it all into a
# throw-away server, and look at what came out. With a manifest.json the restored databases must equal their source,
# row for row; without one (backup.sh) the restore itself is the proof.
#
# Nothing is written into the backup. The server listens on a private socket only, has no network where the kernel
# allows that, and is gone afterwards.

here=$(dirname "$(readlink -f "$0")") || exit 3
# shellcheck source=include/scripts/common.sh
. "$here/common.sh"
# shellcheck source=include/scripts/sql_text.sh
. "$here/sql_text.sh"

usage() {
    cat <<'EOF'
usage: verify_backup.sh DIR [options]

Restores the full backup in DIR into a throw-away server. One line a check, the verdict last.

  --key FILE              private key that opens the backup (default: the keys of your own gpg home)
  --passphrase-file FILE  passphrase of the private key (default: gpg-agent knows it, or asks)
  --jobs N                restore and check with N processes (JOBS, default 2)
  --bin DIR               folder of PostgreSQL's server programs (PG_BIN)
  --work DIR              where decrypted files and the server go; they need the size of the databases (TMPDIR, /tmp)
  --help

exit status: 0 verified, 1 rejected, 2 called wrongly,
             3 no verdict: this machine lacks a key, a program, an extension, a locale or space
EOF
}

directory=
key=
passphrase_file=
jobs=${JOBS:-2}
bin=${PG_BIN:-}
work_parent=${TMPDIR:-/tmp}

while [ $# -gt 0 ]; do
    case $1 in
        --*=*) option=$1 && shift && set -- "${option%%=*}" "${option#*=}" "$@" ;;
    esac
    case $1 in
        --help | -h) usage && exit 0 ;;
        --key | --passphrase-file | --jobs | --bin | --work) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
        -*) usage_error "unknown option: $1" ;;
        *)
            [ -z "$directory" ] || usage_error "one backup at a time: $directory or $1"
            directory=$1
            shift
            continue
            ;;
    esac
    case $1 in
        --key) key=$2 ;;
        --passphrase-file) passphrase_file=$2 ;;
        --jobs) jobs=$2 ;;
        --bin) bin=$2 ;;
        --work) work_parent=$2 ;;
    esac
    shift 2
done
[ -n "$directory" ] || usage_error "which backup? give its folder"
case $jobs in '' | 0* | *[!0-9]*) usage_error "not a number of processes: $jobs" ;; esac

ok() { printf 'ok      %-14s %s\n' "$1" "$2"; }
note() { printf 'note    %-14s %s\n' "$1" "$2"; }
failed() { printf 'FAILED  %-14s %s\n' "$1" "$2"; }

server_pid=
socket=
# The verdict is said whichever way the script ends.
conclude() {
    if [ -n "$server_pid" ]; then
        kill -QUIT "$server_pid" 2>/dev/null || : # at once: nothing in it is worth a checkpoint
        wait "$server_pid" 2>/dev/null || :
    fi
    if [ -n "$socket" ]; then rm -rf "$socket"; fi
    case $answer in
        yes) echo "verdict: verified" ;;
        no) echo "verdict: rejected" ;;
        *) echo "verdict: none" ;;
    esac
}

check_bytes() {
    read_sums "$directory"
    directory=$(cd "$directory" && pwd -P) || fail "$ENVIRONMENT" "cannot enter $directory"
    check_sums "$directory" "$work/sums"
    for path in "$directory"/* "$directory"/.[!.]*; do
        name=${path##*/}
        if ! [ -e "$path" ] && ! [ -L "$path" ]; then continue; fi # no file matched
        case $name in SHA256SUMS | SHA256SUMS.sig | attest) continue ;; esac
        # One more key file is what a change of the keys adds.
        listed "$name" || is_key "$name" ||
            fail "$NO" "$name is not in SHA256SUMS" "$directory" "use another copy, and find out who put it there"
    done
    encrypted=no
    if listed globals.sql.gpg; then
        encrypted=yes
    elif ! listed globals.sql; then
        fail "$NO" "the backup holds no globals.sql" "$directory" "is it a full backup? For a base backup see the engine, or pg_verifybackup"
    fi
    stored=$(du -sk "$directory") || fail "$ENVIRONMENT" "cannot measure $directory"
    stored=${stored%%[!0-9]*}
    ok bytes "$(wc -l <"$work/names" | tr -d ' ') files match SHA256SUMS, $stored kB"
    manifest=
    needed=$((4 * stored)) # a guess: dumps are compressed, databases are not
    if listed manifest.json; then
        manifest=$directory/manifest.json
        restored=$(awk '/^   "bytes": [0-9]+,$/ { sub(/,/, "", $2); sum += $2 } END { printf "%.0f", sum / 1024 }' "$manifest") ||
            fail "$ENVIRONMENT" "cannot read $manifest"
        needed=$((stored + restored))
    fi
    need_space "$needed" "$work"
}

# Every file, decrypted; $work/archives lists the dumps: database name in hexadecimal, path.
open_files() {
    mkdir "$work/files" || fail "$ENVIRONMENT" "cannot make $work/files"
    [ "$encrypted" = no ] || open_key "$directory" "$key" "$passphrase_file"
    : >"$work/archives"
    while IFS= read -r name <&3; do
        if [ "$name" = manifest.json ] || is_key "$name"; then continue; fi
        plain=${name%.gpg}
        path=$directory/$name
        if [ "$encrypted" = yes ]; then
            [ "$plain" != "$name" ] || fail "$NO" "$name is not encrypted, other files of the backup are" "$directory"
            decrypt "$path" "$work/files/$plain"
            path=$work/files/$plain
        fi
        case $plain in
            globals.sql) globals=$path ;;
            *.dump)
                hex_of_file_name "${plain%.dump}"
                printf '%s %s\n' "$hex" "$path" >>"$work/archives"
                ;;
            *.dir.tar)
                hex_of_file_name "${plain%.dir.tar}"
                unpack "$path" "$work/files/${plain%.tar}"
                [ "$encrypted" = no ] || rm -f "$path"
                printf '%s %s\n' "$hex" "$work/files/${plain%.tar}" >>"$work/archives"
                ;;
            *) fail "$NO" "$name is not a file of a full backup" "$directory" ;;
        esac
    done 3<"$work/names"
    [ -s "$work/archives" ] || fail "$NO" "the backup holds no database" "$directory"
    if [ "$encrypted" = yes ]; then ok decrypt "everything opens"; else note decrypt "the backup is not encrypted"; fi
}

decode_dumps() {
    entries=0
    needed=0
    while read -r hex archive <&3; do
        for step in --list --file=/dev/null; do # the table of contents stands first: alone it passes on half a dump
            attend pg_restore "$step" "$archive" >"$work/toc" 2>"$work/err" ||
                fail_by "the dump of $(shown "$hex") does not decode" "$work/err"
            [ "$step" = --list ] || continue
            entries=$((entries + $(grep -c '^[0-9]' "$work/toc" || :)))
            sed -n 's/^;  *Dumped .* version: \([0-9]*\).*/\1/p' "$work/toc" >"$work/versions"
            while read -r version; do
                [ "$version" -le "$needed" ] || needed=$version
            done <"$work/versions"
        done
    done 3<"$work/archives"
    ok format "$(wc -l <"$work/archives" | tr -d ' ') dumps decode to their end, $entries entries"
    major=$(version_of postgres)
    [ "$major" -ge "$needed" ] ||
        fail "$ENVIRONMENT" "PostgreSQL $major cannot restore this backup, which needs $needed" "$(command -v postgres)" "install postgresql-$needed, or see --bin"
}

# A server refuses to be root; in a user namespace root's files are its own. With a network namespace no foreign table
# reaches production. setpriv: should this script be killed, the server ends too. Only for the background or attend.
isolate() {
    case $isolation in
        namespace) exec unshare --user --map-user=1000 --map-group=1000 --net setpriv --pdeathsig INT -- "$@" ;;
        user) exec unshare --user --map-user=1000 --map-group=1000 setpriv --pdeathsig INT -- "$@" ;;
        nobody) exec setpriv --reuid=65534 --regid=65534 --clear-groups --pdeathsig INT -- "$@" ;;
        direct) exec "$@" ;;
    esac
}

choose_isolation() {
    for isolation in namespace user nobody direct; do
        if [ "$isolation" = direct ] && [ "$(id -u)" -eq 0 ]; then
            fail "$ENVIRONMENT" "PostgreSQL refuses to run as root" "" "run as an ordinary user, or install util-linux (unshare, setpriv)"
        fi
        if (isolate true) 2>/dev/null; then break; fi
    done
    [ "$isolation" = namespace ] || note isolation "the server is not cut off from the network: the kernel allows no network namespace"
}

# The bootstrap superuser has to be called like the source's: roles are granted by it.
find_bootstrap() {
    bootstrap=postgres
    hex=$(sed -n 's/^-- bootstrap superuser (hex): \([0-9a-f]*\)$/\1/p' "$globals")
    if [ -n "$hex" ]; then
        text_of "$hex"
        bootstrap=$text
    elif [ -n "$manifest" ]; then
        bootstrap=$(sed -n 's/^ "bootstrap_superuser": "\(.*\)",\{0,1\}$/\1/p' "$manifest" | sed 's/\\\(["\\]\)/\1/g')
        [ -n "$bootstrap" ] || fail "$ENVIRONMENT" "manifest.json names no bootstrap superuser" "$manifest"
    fi
}

make_server() {
    data=$work/server
    # In /tmp, because a socket's path has a limit of about 100 characters.
    socket=$(mktemp -d /tmp/pgs.XXXXXXXX) || fail "$ENVIRONMENT" "cannot make a folder for the socket in /tmp"
    mkdir "$data" || fail "$ENVIRONMENT" "cannot make $data"
    if [ "$isolation" = nobody ]; then
        { chown 65534:65534 "$data" "$socket" && chmod 711 "$work"; } || fail "$ENVIRONMENT" "cannot give $data to the server"
        (isolate test -w "$data") || fail "$ENVIRONMENT" "user 65534 cannot reach $data" "" "see --work: every folder above it must be passable"
    fi
    set -- --pgdata="$data" --no-sync --auth=trust --encoding=UTF8 --locale=C --username="$bootstrap"
    [ "$major" -lt 18 ] || set -- "$@" --no-data-checksums # nothing here outlives the hour
    attend isolate initdb "$@" >"$work/out" 2>"$work/err" || fail_from "$ENVIRONMENT" "initdb fails" "$work/err"
    cat >"$data/postgresql.conf" <<'EOF'
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 60
shared_buffers = 128MB
maintenance_work_mem = 128MB
max_wal_size = 8GB
checkpoint_timeout = 1h
wal_level = minimal
max_wal_senders = 0
archive_mode = off
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
jit = off
max_locks_per_transaction = 1024
max_logical_replication_workers = 0
lc_messages = C
logging_collector = off
log_min_messages = warning
log_min_error_statement = panic
EOF
}

# sql CONNINFO ARGUMENTS...: one session; what it prints is data.
sql() {
    sql_conninfo=$1
    shift
    attend psql --no-psqlrc --no-password --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 \
        --dbname="$sql_conninfo" "$@"
}

start_server() {
    isolate postgres -D "$data" -k "$socket" -p 5432 >"$work/server.log" 2>&1 &
    server_pid=$!
    # Nothing of the caller's may lead elsewhere, and no restored setting into our sessions.
    unset PGSERVICE PGSERVICEFILE PGHOSTADDR PGPASSFILE PGPASSWORD PGSSLMODE PGREQUIREAUTH PGDATABASE PGTARGETSESSIONATTRS
    export PGHOST="$socket" PGPORT=5432 PGUSER="$bootstrap"
    export PGOPTIONS='-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0'
    tries=0
    until sql dbname=template1 --command='SELECT 1' >"$work/out" 2>"$work/err"; do
        tries=$((tries + 1))
        if [ "$tries" -ge 300 ] || ! kill -0 "$server_pid" 2>/dev/null; then
            fail_from "$ENVIRONMENT" "the throw-away server does not start" "$work/server.log"
        fi
        sleep 0.2
    done
}

restore_everything() {
    globals_for_isolation "$globals" "$bootstrap" >"$work/globals.sql" || fail "$NO" "globals.sql is not what pg_dumpall writes"
    sql dbname=template1 --file="$work/globals.sql" >"$work/out" 2>"$work/err" ||
        fail_by "the globals cannot be restored" "$work/err"
    sql dbname=template1 --command='DROP DATABASE postgres' >"$work/out" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "the throw-away server does not obey" "$work/err"
    : >"$work/errors"
    while read -r hex archive <&3; do
        restore_database "$hex" "$archive"
    done 3<"$work/archives"
    if [ -s "$work/errors" ]; then
        head -n 40 "$work/errors" | sed 's/^/  /'
        failed restore "$(wc -l <"$work/errors" | tr -d ' ') errors, see above"
        wrong=yes
    else
        ok restore "$(wc -l <"$work/archives" | tr -d ' ') databases"
    fi
}

restore_database() {
    shown_name=$(shown "$1")
    identifier_of "$1"
    conninfo_of "$1"
    : >"$work/create.sql"
    : >"$work/properties.sql"
    header "$2" "$identifier" "$work/create.sql" "$work/properties.sql"
    sql dbname=template1 --file="$work/create.sql" >"$work/out" 2>"$work/err" ||
        fail_by "database $shown_name cannot be made" "$work/err"
    attend pg_restore --jobs="$jobs" --no-tablespaces --no-subscriptions --no-password --dbname="$conninfo" "$2" \
        >"$work/out" 2>"$work/restore.err" || judge_restore "$shown_name"
    sed -n 's/.*violates foreign key constraint "\(.*\)"$/\1/p' "$work/restore.err" >"$work/violated.$1"
    # Owner, settings and grants; last, because a setting may be one that restores badly.
    sql dbname=template1 --set=ON_ERROR_STOP=0 --file="$work/properties.sql" >"$work/out" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "the throw-away server does not answer" "$work/err"
    grep 'ERROR:' "$work/err" >>"$work/errors" || :
}

# pg_restore goes on after an error. Rows that violate a foreign key may do so in the source, too; a foreign server that
# cannot be reached is not the backup's fault.
judge_restore() {
    [ "$(blame "$work/restore.err")" -eq "$NO" ] || fail_by "this machine cannot restore $1" "$work/restore.err"
    failed_statements "$work/restore.err" >"$work/failed"
    if ! [ -s "$work/failed" ] || ! grep -q 'errors ignored on restore' "$work/restore.err"; then
        fail_from "$ENVIRONMENT" "pg_restore ended early on $1" "$work/restore.err"
    fi
    grep -v -e 'violates foreign key constraint' -e 'ERROR:  could not connect to server' \
        -e 'ERROR:  could not establish connection' "$work/failed" >"$work/own" || return 0
    while IFS= read -r line; do printf '%s: %s\n' "$1" "${line##*ERROR:  }"; done <"$work/own" >>"$work/errors"
}

# The manifest is JSON: PostgreSQL reads it better than awk.
load_manifest() {
    [ -n "$manifest" ] || return 0
    cp "$manifest" "$work/manifest.json" || fail "$ENVIRONMENT" "cannot read $manifest"
    cat >"$work/load.sql" <<'EOF'
CREATE TEMP TABLE line (number int GENERATED ALWAYS AS IDENTITY, text text);
\copy line (text) FROM 'manifest.json' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')
CREATE TABLE public.manifest AS SELECT string_agg(text, '' ORDER BY number)::jsonb AS document FROM line;
EOF
    PGCLIENTENCODING=UTF8 sql dbname=template1 --file="$work/load.sql" >"$work/out" 2>"$work/err" ||
        fail_from "$NO" "manifest.json is not JSON" "$work/err" "use another copy of this backup"
    cat >"$work/expect.sql" <<'EOF'
CREATE TEMP TABLE entry AS
SELECT d AS entry FROM public.manifest, jsonb_array_elements(document -> 'databases') AS d WHERE d ->> 'name' = :'database';
SELECT (SELECT count(*) FROM entry) = 1 AS found \gset
\if :found
\copy (SELECT t ->> 'schema_name', t ->> 'name', t ->> 'kind', t -> 'content' ->> 'rows', t -> 'content' ->> 'hash' FROM entry, jsonb_array_elements(entry -> 'tables') AS t) TO 'expected.tables'
\copy (SELECT t ->> 'schema_name', t ->> 'name', t ->> 'last_value', t ->> 'increment' FROM entry, jsonb_array_elements(entry -> 'sequences') AS t) TO 'expected.sequences'
\copy (SELECT t ->> 'schema_name', t ->> 'table', t ->> 'name', t ->> 'validated' FROM entry, jsonb_array_elements(entry -> 'foreign_keys') AS t) TO 'expected.keys'
\copy (SELECT entry -> 'large_objects' ->> 'rows', entry -> 'large_objects' ->> 'hash' FROM entry WHERE jsonb_typeof(entry -> 'large_objects') = 'object') TO 'expected.large_objects'
\endif
SELECT :'found', (document ->> 'hash_version' = '1' AND (document -> 'fingerprints')::boolean
       AND (document -> 'server' ->> 'version')::int / 10000 = current_setting('server_version_num')::int / 10000)
FROM public.manifest;
EOF
}

# What psql finds in each database ends up in $work/findings; the summary is awk's.
look_at_databases() {
    cd "$work" || fail "$ENVIRONMENT" "cannot enter $work"
    load_manifest
    : >"$work/findings"
    while read -r hex archive <&3; do
        shown_name=$(shown "$hex")
        conninfo_of "$hex"
        text_of "$hex"
        set --
        if [ -n "$manifest" ]; then
            PGCLIENTENCODING=UTF8 sql dbname=template1 --set=database="$text" --file="$work/expect.sql" \
                >"$work/expectation" 2>"$work/err" || fail_from "$ENVIRONMENT" "cannot read the manifest" "$work/err"
            case $(cat "$work/expectation") in
                't|t') set -- --set=expected=1 --set=hashes=1 ;;
                't|f') set -- --set=expected=1 ;;
                *) fail "$NO" "manifest.json does not know database $shown_name" "$directory" "use another copy of this backup" ;;
            esac
        fi
        cp "$work/violated.$hex" "$work/violated" || fail "$ENVIRONMENT" "cannot write $work/violated"
        PGCLIENTENCODING=UTF8 sql "$conninfo" "$@" --file="$here/verify_backup.sql" >"$work/found" 2>"$work/err" ||
            fail_from "$ENVIRONMENT" "cannot look at database $shown_name" "$work/err"
        while IFS= read -r line; do printf '%s\t%s\n' "$line" "$shown_name"; done <"$work/found" >>"$work/findings"
    done 3<"$work/archives"
    summarize || fail "$ENVIRONMENT" "awk failed"
    if grep -q '^FAILED' "$work/summary"; then wrong=yes; fi
    cat "$work/summary"
}

summarize() {
    MANIFEST=${manifest:+yes} awk -F '\t' '
        function tell(check, unit,    word) {
            word = wrong[check] ? "FAILED" : "ok"
            printf "%-7s %-14s %s\n", word, check, (count[check] + 0) " " unit (wrong[check] ? ": " text[check] : "")
            if (notes[check] != "") printf "note    %-14s %s\n", check, notes[check]
        }
        function add(list, name) { return list == "" ? name : length(list) < 400 ? list "; " name : list }
        $1 == "count" { count[$2] += $3 }
        $1 == "wrong" { wrong[$2]++; text[$2] = add(text[$2], $4 ": " $3) }
        $1 == "note" { notes[$2] = add(notes[$2], $4 ": " $3) }
        $1 == "violated" { violations++; violated = add(violated, $4 ": " $3) }
        END {
            if (violations && ENVIRON["MANIFEST"] && !wrong["tables"] && !wrong["rows"] && !wrong["content"])
                notes["foreign keys"] = add(notes["foreign keys"], "violated by the rows of the source itself: " violated)
            else if (violations) {
                wrong["foreign keys"]++
                text["foreign keys"] = add(text["foreign keys"], "rows violate " violated)
            }
            tell("tables", "tables")
            if (ENVIRON["MANIFEST"]) {
                tell("rows", "rows, as in the source")
                if (count["content"]) tell("content", "tables have the source'"'"'s content")
                else print "note    content        the source was not fingerprinted, or has another major version: not compared"
                tell("sequences", "sequences not behind the source")
            } else
                print "note    rows           " count["rows"] + 0 " rows; no manifest.json, so nothing to compare them with"
            tell("foreign keys", "foreign keys hold")
            tell("indexes", "indexes are valid")
        }' "$work/findings" >"$work/summary"
}

# Each index against its table, each table's pages.
check_indexes() {
    if ! command -v pg_amcheck >/dev/null 2>&1; then
        note amcheck "pg_amcheck is not installed: indexes not compared with their tables"
        return
    fi
    sql dbname=template1 --command="SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'" >"$work/out" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "the throw-away server does not answer" "$work/err"
    if ! [ -s "$work/out" ]; then
        note amcheck "the extension amcheck is not installed: indexes not compared with their tables"
        return
    fi
    status=0
    attend pg_amcheck --all --install-missing --heapallindexed --jobs="$jobs" --no-password \
        --maintenance-db=dbname=template1 >"$work/out" 2>"$work/err" || status=$?
    case $status in
        0) ok amcheck "every index holds every row of its table" ;;
        2)
            head -n 20 "$work/out" | sed 's/^/  /'
            failed amcheck "corruption, see above"
            wrong=yes
            ;;
        *) fail_from "$ENVIRONMENT" "pg_amcheck could not look" "$work/err" ;;
    esac
}

cleanup=conclude
make_work "$work_parent"
find_postgres postgres "$bin"
require initdb pg_restore psql sha256sum awk sed od tar
wrong=no
check_bytes
open_files
decode_dumps
choose_isolation
find_bootstrap
make_server
start_server
restore_everything
look_at_databases
check_indexes
if [ "$wrong" = yes ]; then
    answer=no
    exit "$NO"
fi
answer=yes

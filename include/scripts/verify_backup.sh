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

usage() {
    cat <<'EOF'
usage: verify_backup.sh DIR [options]

Restores the full backup in DIR into a throw-away server. One line a check, the verdict last.

  --key FILE              private key that opens the backup (default: the keys of your own gpg home)
  --passphrase-file FILE  passphrase of the private key (default: gpg-agent asks or knows)
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

server_pid=
socket=
stop_server() {
    if [ -n "$server_pid" ]; then
        # At once: nothing in it is worth a checkpoint.
        kill -QUIT "$server_pid" 2>/dev/null || :
        wait "$server_pid" 2>/dev/null || :
    fi
    if [ -n "$socket" ]; then rm -rf "$socket"; fi
}
cleanup=stop_server

# The verdict is a line of its own, whichever way the script ends.
verdict=none
judged=no
tell_verdict() {
    tell_status=$?
    if [ "$judged" = yes ] || [ "$tell_status" -eq "$NO" ]; then
        if [ "$tell_status" -eq 0 ]; then verdict=verified; else verdict=rejected; fi
    fi
    printf 'verdict: %s\n' "$verdict"
    finish
    exit "$tell_status"
}

rejected=no
checked() { printf 'ok       %-16s %s\n' "$1" "$2"; }
noted() { printf 'note     %-16s %s\n' "$1" "$2"; }
refused() {
    printf 'FAILED   %-16s %s\n' "$1" "$2"
    rejected=yes
}

make_work "$work_parent"
trap tell_verdict EXIT
find_postgres initdb "$bin"
require postgres pg_restore psql pg_amcheck sha256sum awk sed od tar

# --- bytes

read_sums "$directory"
directory=$(cd "$directory" && pwd -P) || fail "$ENVIRONMENT" "cannot enter $directory"
check_sums "$directory" "$work/sums"
for path in "$directory"/* "$directory"/.[!.]*; do
    name=${path##*/}
    if ! [ -e "$path" ] && ! [ -L "$path" ]; then continue; fi
    case $name in
        SHA256SUMS | attest) continue ;;
        key.*.gpg) # one more of these is what a change of the keys adds
            number=${name#key.}
            case ${number%.gpg} in '' | *[!0-9]*) ;; *) continue ;; esac
            ;;
    esac
    listed "$name" || fail "$NO" "$name is not in SHA256SUMS" "$directory" "somebody put it there: use another copy, or look at who did"
done
encrypted=no
if listed globals.sql.gpg; then
    encrypted=yes
elif ! listed globals.sql; then
    fail "$NO" "the backup holds no globals.sql" "$directory" "is it a full backup? a base backup is verified by the engine, or with pg_verifybackup"
fi
stored_kb=$(du -sk "$directory") || fail "$ENVIRONMENT" "cannot measure $directory"
stored_kb=${stored_kb%%[!0-9]*}
checked bytes "$(wc -l <"$work/names" | tr -d ' ') files match SHA256SUMS, $stored_kb kB"

manifest=
needed_kb=$((4 * stored_kb))
if listed manifest.json; then
    manifest=$directory/manifest.json
    database_kb=$(awk '/^   "bytes": [0-9]+,$/ { sub(/,/, "", $2); sum += $2 } END { printf "%d", sum / 1024 }' "$manifest") ||
        fail "$ENVIRONMENT" "cannot read $manifest"
    needed_kb=$((stored_kb + database_kb))
fi
need_space "$needed_kb" "$work"

# --- decrypt and decode

mkdir "$work/files" || fail "$ENVIRONMENT" "cannot make $work/files"
[ "$encrypted" = no ] || open_key "$directory" "$key" "$passphrase_file"
: >"$work/archives"
while IFS= read -r name <&3; do
    plain=${name%.gpg}
    case $plain in manifest.json | key.[0-9] | key.[0-9][0-9] | key.[0-9][0-9][0-9]) continue ;; esac
    if [ "$plain" != "$name" ]; then
        decrypt "$directory/$name" "$work/files/$plain"
        stored=$work/files/$plain
    else
        stored=$directory/$name
    fi
    case $plain in
        globals.sql) globals=$stored ;;
        *.dump)
            hex_of_file_name "${plain%.dump}"
            printf '%s %s\n' "$hex" "$stored" >>"$work/archives"
            ;;
        *.dir.tar)
            hex_of_file_name "${plain%.dir.tar}"
            unpack "$stored" "$work/files/${plain%.tar}"
            [ "$encrypted" = no ] || rm "$stored"
            printf '%s %s\n' "$hex" "$work/files/${plain%.tar}" >>"$work/archives"
            ;;
        *) fail "$NO" "$name is not a file of a full backup" "$directory" ;;
    esac
done 3<"$work/names"
if [ "$encrypted" = yes ]; then checked decrypt "everything opens"; else noted decrypt "the backup is not encrypted"; fi

entries=0
needed=0
while read -r hex archive <&3; do
    shown_name=$(shown "$hex")
    for step in --list --file=/dev/null; do # the table of contents stands first: alone it passes on half a dump
        attend pg_restore "$step" "$archive" >"$work/toc" 2>"$work/err" ||
            fail_from "$(blame "$work/err")" "the dump of $shown_name does not decode" "$work/err" "use another copy of this backup"
        [ "$step" = --list ] || continue
        entries=$((entries + $(grep -c '^[0-9]' "$work/toc" || :)))
        for version in $(sed -n 's/^;  *Dumped .* version: \([0-9]*\).*/\1/p' "$work/toc"); do
            [ "$version" -le "$needed" ] || needed=$version
        done
    done
done 3<"$work/archives"
[ -s "$work/archives" ] || fail "$NO" "the backup holds no database" "$directory"
count=$(wc -l <"$work/archives" | tr -d ' ')
checked format "$count dumps decode to their end, $entries entries"

# --- a throw-away server

major=$(version_of postgres)
[ "$major" -ge "$needed" ] ||
    fail "$ENVIRONMENT" "PostgreSQL $major cannot restore this backup, which needs $needed" "$(command -v postgres)" "install postgresql-$needed, or see --bin"

bootstrap=postgres
hex=$(sed -n 's/^-- bootstrap superuser (hex): \([0-9a-f]*\)$/\1/p' "$globals" | tail -n 1)
if [ -n "$hex" ]; then
    text_of "$hex"
    bootstrap=$text
elif [ -n "$manifest" ]; then
    bootstrap=$(sed -n 's/^ "bootstrap_superuser": "\(.*\)",\{0,1\}$/\1/p' "$manifest" | sed 's/\\\(["\\]\)/\1/g')
    [ -n "$bootstrap" ] || fail "$ENVIRONMENT" "manifest.json names no bootstrap superuser"
fi

# A server refuses to be root; a user namespace lets root's files be its own. With a network namespace no foreign
# table reaches production. setpriv: should this script be killed, the server ends too.
data=$work/server
owner=
isolate() { exec "$@"; }
if unshare --user --map-user=1000 --map-group=1000 --net setpriv --pdeathsig INT true 2>/dev/null; then
    isolate() { exec unshare --user --map-user=1000 --map-group=1000 --net setpriv --pdeathsig INT -- "$@"; }
elif [ "$(id -u)" -eq 0 ]; then
    if unshare --user --map-user=1000 --map-group=1000 true 2>/dev/null; then
        isolate() { exec unshare --user --map-user=1000 --map-group=1000 -- "$@"; }
    elif setpriv --reuid=65534 --regid=65534 --clear-groups true 2>/dev/null; then
        owner=65534:65534
        isolate() { exec setpriv --reuid=65534 --regid=65534 --clear-groups --pdeathsig INT -- "$@"; }
    else
        fail "$ENVIRONMENT" "PostgreSQL refuses to run as root" "" "run as an ordinary user, or install util-linux (unshare, setpriv)"
    fi
    noted isolation "the server is not cut off from the network: this kernel allows no network namespace"
else
    noted isolation "the server is not cut off from the network: this kernel allows no network namespace"
fi
mkdir "$data" || fail "$ENVIRONMENT" "cannot make $data"
# In /tmp, because a socket's path has a limit of about 100 characters.
socket=$(mktemp -d /tmp/pgs.XXXXXXXX) || fail "$ENVIRONMENT" "cannot make a folder for the socket in /tmp"
if [ -n "$owner" ]; then
    chown "$owner" "$work" "$data" "$socket" || fail "$ENVIRONMENT" "cannot give $data to the server"
    (isolate test -w "$data") || fail "$ENVIRONMENT" "user 65534 cannot reach $data" "" "see --work: every folder above it must be passable"
fi
checksums=
[ "$major" -lt 18 ] || checksums=--no-data-checksums # nothing here outlives the hour
# shellcheck disable=SC2086 # one word or none
attend isolate initdb --pgdata="$data" --no-sync --auth=trust --encoding=UTF8 --locale=C --username="$bootstrap" \
    $checksums >"$work/out" 2>"$work/err" || fail_from "$ENVIRONMENT" "initdb fails" "$work/err"
cat >"$work/postgresql.conf" <<'EOF'
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
cp "$work/postgresql.conf" "$data/postgresql.conf" || fail "$ENVIRONMENT" "cannot configure the server"
isolate postgres -D "$data" -k "$socket" -p 5432 >"$work/server.log" 2>&1 &
server_pid=$!

# Nothing of the caller's environment may lead elsewhere, or the source's settings into our sessions.
unset PGSERVICE PGSERVICEFILE PGHOSTADDR PGPASSFILE PGPASSWORD PGSSLMODE PGREQUIREAUTH PGDATABASE PGTARGETSESSIONATTRS
PGHOST=$socket
PGPORT=5432
PGUSER=$bootstrap
PGOPTIONS='-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0'
export PGHOST PGPORT PGUSER PGOPTIONS

# sql CONNINFO ARGUMENTS...: one session; what it prints is data.
sql() {
    sql_conninfo=$1
    shift
    PGCLIENTENCODING=UTF8 attend psql --no-psqlrc --no-password --quiet --tuples-only --no-align \
        --set=ON_ERROR_STOP=1 --dbname="$sql_conninfo" "$@"
}

tries=0
until sql dbname=template1 --command='SELECT 1' >"$work/out" 2>"$work/err"; do
    tries=$((tries + 1))
    if [ "$tries" -ge 300 ] || ! kill -0 "$server_pid" 2>/dev/null; then
        fail_from "$ENVIRONMENT" "the throw-away server does not start" "$work/server.log"
    fi
    sleep 0.2
done

# --- restore

globals_for_isolation "$globals" "$bootstrap" >"$work/globals.sql" || fail "$NO" "globals.sql is not what pg_dumpall writes"
sql dbname=template1 --file="$work/globals.sql" >"$work/out" 2>"$work/err" ||
    fail_from "$(blame "$work/err")" "the globals cannot be restored" "$work/err" "use another copy of this backup"
sql dbname=template1 --command='DROP DATABASE postgres' >"$work/out" 2>"$work/err" ||
    fail_from "$ENVIRONMENT" "the throw-away server does not obey" "$work/err"

: >"$work/violations"
: >"$work/failures"
while read -r hex archive <&3; do
    shown_name=$(shown "$hex")
    text_of "$hex"
    identifier=$(printf 'SELECT quote_ident(:%sdatabase%s)' "'" "'" | {
        PGCLIENTENCODING=SQL_ASCII psql --no-psqlrc --no-password --quiet --tuples-only --no-align \
            --dbname=dbname=template1 --set=database="$text" 2>/dev/null && printf x
    }) || fail "$ENVIRONMENT" "the throw-away server does not answer"
    identifier=${identifier%"${newline:=$(printf '\nx')}"}
    :
done 3<"$work/archives"

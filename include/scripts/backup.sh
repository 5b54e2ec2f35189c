#!/bin/sh
# Dump every database and the globals of a PostgreSQL server into a repository, encrypted, in the engine's own layout:
#
#   full/<cluster>_<YYYYmmdd_HHMMSS>_full/  globals.sql.gpg  <database>.dump.gpg ...  key.1.gpg  SHA256SUMS
#
# and SHA256SUMS.sig, where a signing key is given.
#
# For the day when Airflow and Python are gone. The backup is made in a folder whose name starts with a dot, checksums
# last, made durable, and renamed: half a backup never looks like one, and nothing is ever overwritten.
#
# There is no manifest.json: it holds fingerprints taken in the dumps' own snapshots, which only the engine can do. So
# nothing says what the restored databases must equal; verify_backup.sh proves that they can be restored.
#
# Nothing old is deleted, on purpose: which backup may go depends on which others were restored and found good. Deleting
# by age removes the last good one while new ones fail. `pgbackup rotate` knows; without it, delete by hand.

here=$(dirname "$(readlink -f "$0")") || exit 3
# shellcheck source=include/scripts/common.sh
. "$here/common.sh"

usage() {
    cat <<'EOF'
usage: backup.sh [options]

Dumps all databases of a server into a new folder of a repository and prints that folder's name.

  --backups DIR      the repository (BACKUP_DIR, default /backups); it must exist: a disk that is not mounted must
                     not fill the root disk
  --cluster NAME     the server's name in the repository (CLUSTER, default streamflix)
  --recipient FILE   a public key to encrypt for; may be repeated (RECIPIENTS="a.asc b.asc")
  --no-encrypt       store readable files (ENCRYPT=off)
  --signing-key FILE
                     a private key that signs SHA256SUMS (SIGNING_KEY; default: nothing is signed)
  --signing-passphrase-file FILE
                     its passphrase (SIGNING_PASSPHRASE_FILE; default: it has none)
  --compress METHOD  pg_dump's --compress (COMPRESS, default zstd:1, before PostgreSQL 16 gzip 6)
  --bin DIR          folder of PostgreSQL's programs, of the server's own version (PG_BIN)
  --work DIR         where small temporary files go (TMPDIR, default /tmp)
  --help

The server is named as for any PostgreSQL program: PGSERVICE, or PGHOST, PGPORT, PGUSER; PGDATABASE is the database to
connect to first (default postgres). Passwords belong into ~/.pgpass or PGPASSFILE. The role has to read everything:
pg_read_all_data, and BYPASSRLS where row-level security is used.

exit status: 0 the backup is complete and durable, 2 called wrongly, 3 server, disk or key at fault; nothing was stored
EOF
}

backups=${BACKUP_DIR:-/backups}
cluster=${CLUSTER:-streamflix}
compress=${COMPRESS:-}
encrypt=yes
case ${ENCRYPT:-on} in off | no | false | 0) encrypt=no ;; esac
signing_key=${SIGNING_KEY:-}
signing_passphrase=${SIGNING_PASSPHRASE_FILE:-/dev/null}
bin=${PG_BIN:-}
work_parent=${TMPDIR:-/tmp}
newline='
'
recipients=
for recipient in ${RECIPIENTS:-}; do recipients=$recipients$recipient$newline; done
named=

while [ $# -gt 0 ]; do
    case $1 in
        --*=*) option=$1 && shift && set -- "${option%%=*}" "${option#*=}" "$@" ;;
    esac
    case $1 in
        --help | -h) usage && exit 0 ;;
        --no-encrypt) encrypt=no && shift && continue ;;
        --backups | --cluster | --recipient | --signing-key | --signing-passphrase-file | --compress | --bin | --work)
            [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
        *) usage_error "unknown option: $1" ;;
    esac
    case $1 in
        --backups) backups=$2 ;;
        --cluster) cluster=$2 ;;
        --recipient) named=$named$2$newline ;; # these replace the environment's
        --signing-key) signing_key=$2 ;;
        --signing-passphrase-file) signing_passphrase=$2 ;;
        --compress) compress=$2 ;;
        --bin) bin=$2 ;;
        --work) work_parent=$2 ;;
    esac
    shift 2
done
[ -z "$named" ] || recipients=$named

# The same rule as the engine's: the name becomes part of a folder's name.
case $cluster in
    [!a-z]* | '' | *[!a-z0-9_-]*) usage_error "not a cluster name: $cluster (small letters, digits, _ and -)" ;;
esac
[ "${#cluster}" -le 31 ] || usage_error "the cluster name is longer than 31 characters: $cluster"
[ "$encrypt" = no ] || [ -n "$recipients" ] ||
    usage_error "nobody to encrypt for: name public key files with --recipient, or say --no-encrypt"
[ -d "$backups" ] || fail "$ENVIRONMENT" "the repository does not exist: $backups" "" "is its disk mounted? see --backups"

make_work "$work_parent"
find_postgres pg_dump "$bin"
require pg_dumpall psql sha256sum awk sed od sync
[ "$encrypt$signing_key" = no ] || require gpg gpgconf

unfinished=
discard() { if [ -n "$unfinished" ]; then rm -rf "$unfinished"; fi; }
cleanup=discard

# Everything is asked of the one database that is there on every server, or of PGDATABASE.
hex_of "${PGDATABASE:-postgres}"
conninfo_of "$hex"
maintenance=$conninfo
# Already resolved; otherwise it would be read again, perhaps as a connection string.
unset PGDATABASE

ask() {
    # Names come as bytes, whatever their encoding.
    PGCLIENTENCODING=SQL_ASCII attend psql --no-psqlrc --no-password --quiet --tuples-only --no-align \
        --set=ON_ERROR_STOP=1 --dbname="$maintenance" --command="$1"
}

# store NAME COMMAND...: keep what a program prints, encrypted. Both programs must succeed: half a dump encrypts well.
store() {
    store_name=$1
    shift
    if [ "$encrypt" = no ]; then
        attend "$@" >"$unfinished/$store_name" 2>"$work/store.err"
        return
    fi
    "$@" >"$work/pipe" 2>"$work/store.err" &
    store_first=$!
    running=$store_first
    gpg_symmetric --cipher-algo AES256 --compress-algo none --s2k-mode 3 --s2k-digest-algo SHA256 --s2k-count 65536 \
        --symmetric <"$work/pipe" >"$unfinished/$store_name.gpg" 2>"$work/seal.err" &
    store_second=$!
    running="$store_first $store_second"
    store_status=0
    wait "$store_second" || store_status=$?
    store_sealed=$store_status
    wait "$store_first" || store_status=$?
    running=
    # A program that lost its reader is not the one to blame.
    [ "$store_sealed" -eq 0 ] || cat "$work/seal.err" >>"$work/store.err"
    return "$store_status"
}

# --- preparations: whatever can be wrong is found before the first byte is dumped

if ! ask "SELECT current_setting('server_version_num')" >"$work/version" 2>"$work/err"; then
    fail_from "$ENVIRONMENT" "cannot connect to the server" "$work/err" "check PGSERVICE or PGHOST, PGPORT, PGUSER and ~/.pgpass"
fi
server=$(($(cat "$work/version") / 10000))
client=$(version_of pg_dump)
[ "$client" -ge "$server" ] ||
    fail "$ENVIRONMENT" "pg_dump $client is older than the server ($server)" "$(command -v pg_dump)" "install postgresql-client-$server, or see --bin"
if [ -z "$compress" ]; then
    if [ "$client" -ge 16 ]; then compress=zstd:1; else compress=6; fi
fi

# One that DROP DATABASE left half-dropped (datconnlimit -2) can only be dropped.
ask "SELECT encode(convert_to(datname, getdatabaseencoding()), 'hex') FROM pg_catalog.pg_database
     WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname COLLATE \"C\"" \
    >"$work/databases" 2>"$work/err" || fail_from "$ENVIRONMENT" "cannot list the databases" "$work/err"
[ -s "$work/databases" ] || fail "$ENVIRONMENT" "the server has no database that can be dumped"

full=$backups/full
[ -d "$full" ] || mkdir "$full" 2>"$work/err" || [ -d "$full" ] ||
    fail_from "$ENVIRONMENT" "cannot make $full" "$work/err" "the repository belongs to the backup's account"
full=$(cd "$full" && pwd -P) || fail "$ENVIRONMENT" "cannot enter $full"
for leftover in "$full"/.unfinished-"$cluster"_*; do
    [ ! -d "$leftover" ] || say "$me: $leftover is of a run that was killed, or still works; it is no backup and may be removed"
done

# The unfinished folder reserves the id: two runs in one second get two.
tries=0
while :; do
    stamp=$(date -u +%Y%m%d_%H%M%S) || fail "$ENVIRONMENT" "date failed"
    id=${cluster}_${stamp}_full
    if mkdir "$full/.unfinished-$id" 2>"$work/err"; then
        unfinished=$full/.unfinished-$id
        [ -e "$full/$id" ] || break
        rmdir "$unfinished" && unfinished=
    fi
    tries=$((tries + 1))
    [ "$tries" -lt 10 ] || fail_from "$ENVIRONMENT" "cannot make a folder in $full" "$work/err" "the repository belongs to the backup's account"
    sleep 1
done

[ "$encrypt$signing_key" = no ] || gpg_home=$(mktemp -d /tmp/g.XXXXXXXX) ||
    fail "$ENVIRONMENT" "cannot make a private gpg home in /tmp"
if [ "$encrypt" = yes ]; then
    mkfifo "$work/pipe" || fail "$ENVIRONMENT" "cannot make a named pipe in $work"
    # 256 random bits, as text; in a file, because arguments can be read by everybody.
    { od -An -v -N32 -tx1 /dev/urandom >"$work/random" && tr -d ' \n' <"$work/random" >"$work/passphrase"; } ||
        fail "$ENVIRONMENT" "cannot read random numbers"
    [ "$(wc -c <"$work/passphrase")" -eq 64 ] || fail "$ENVIRONMENT" "too few random numbers"
    set --
    old_ifs=$IFS
    IFS=$newline
    set -f
    for recipient in $recipients; do
        [ -r "$recipient" ] || fail "$ENVIRONMENT" "unknown recipient: its public key file is missing" "$recipient" "gpg --armor --export WHO > FILE"
        set -- "$@" --recipient-file "$recipient"
    done
    set +f
    IFS=$old_ifs
    gpg --homedir "$gpg_home" --batch --no-tty --quiet --no-autostart --disable-dirmngr --no-auto-key-locate \
        --trust-model always --cipher-algo AES256 --compress-algo none "$@" \
        --output "$unfinished/key.1.gpg" --encrypt "$work/passphrase" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot encrypt for the recipients" "$work/err" "is a key expired, or has it no encryption subkey?"
fi

# sign FILE SIGNATURE: a detached signature. What is wrong with the key or its passphrase is found before the dumps.
sign() {
    attend gpg --homedir "$gpg_home" --batch --yes --no-tty --quiet --pinentry-mode loopback \
        --passphrase-file "$signing_passphrase" --output "$2" --detach-sign "$1" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot sign with $signing_key" "$work/err" "is it expired, or the passphrase wrong? see --signing-passphrase-file"
}
if [ -n "$signing_key" ]; then
    attend gpg --homedir "$gpg_home" --batch --no-tty --quiet --pinentry-mode loopback \
        --passphrase-file "$signing_passphrase" --import "$signing_key" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot import the signing key $signing_key" "$work/err" "gpg --armor --export-secret-keys WHO > FILE"
    sign "$work/version" "$work/version.sig"
fi

# --- the dumps

started=$(date +%s)
globals() {
    attend pg_dumpall --globals-only --no-password --dbname="$maintenance" >"$1" 2>"$work/err" ||
        fail_from "$ENVIRONMENT" "cannot dump roles and tablespaces" "$work/err" "nothing was stored; may this role read pg_authid?"
}
globals "$work/globals.before"

while read -r hex <&3; do
    name=$(file_name_of "$hex")
    conninfo_of "$hex"
    say "$me: dumping $(shown "$hex")"
    store "$name.dump" pg_dump --format=custom --compress="$compress" --no-password --lock-wait-timeout=60000 \
        --dbname="$conninfo" ||
        fail_from "$ENVIRONMENT" "cannot dump database $(shown "$hex")" "$work/store.err" "nothing was stored"
done 3<"$work/databases"

# Globals have no snapshot. These are the later ones: a role that the last dump needs is in them.
globals "$work/globals.after"
for moment in before after; do
    grep -v -e '^--' -e '^\\restrict' -e '^\\unrestrict' "$work/globals.$moment" >"$work/compare.$moment" || :
done
cmp -s "$work/compare.before" "$work/compare.after" ||
    say "$me: warning: roles or tablespaces changed during the dumps; verify_backup.sh shows whether it matters"
# The name of the superuser that owns the server: a throw-away server has to call its own the same.
ask "SELECT encode(convert_to(rolname, getdatabaseencoding()), 'hex') FROM pg_catalog.pg_roles WHERE oid = 10" \
    >"$work/bootstrap" 2>"$work/err" || fail_from "$ENVIRONMENT" "cannot list the roles" "$work/err"
printf '\n-- bootstrap superuser (hex): %s\n' "$(cat "$work/bootstrap")" >>"$work/globals.after"
store globals.sql cat "$work/globals.after" || fail_from "$ENVIRONMENT" "cannot store the globals" "$work/store.err" "nothing was stored"

# --- commit: checksums, signed before they count, then everything durable, then the name

cd "$unfinished" || fail "$ENVIRONMENT" "cannot enter $unfinished"
attend sha256sum -- * >"$work/sums" || fail "$ENVIRONMENT" "cannot compute the checksums"
[ -z "$signing_key" ] || sign "$work/sums" SHA256SUMS.sig
cp "$work/sums" SHA256SUMS || fail "$ENVIRONMENT" "cannot write SHA256SUMS"
attend sync -- * . || fail "$ENVIRONMENT" "the disk did not take the backup" "$full" "look at the kernel's log (dmesg)"
cd / || exit "$ENVIRONMENT"
bytes=$(du -sk "$unfinished")
# -T: into that name, never into a folder of that name; a folder that is not empty is not replaced.
mv -T "$unfinished" "$full/$id" 2>"$work/err" || fail_from "$ENVIRONMENT" "cannot publish the backup as $full/$id" "$work/err"
unfinished=
attend sync -- "$full" || fail "$ENVIRONMENT" "the disk did not take the backup's name" "$full/$id" "look at the kernel's log (dmesg)"
say "$me: $(wc -l <"$work/databases" | tr -d ' ') databases, ${bytes%%[!0-9]*} kB, $(($(date +%s) - started)) s; prove it: $here/verify_backup.sh $full/$id"
printf '%s\n' "$full/$id"

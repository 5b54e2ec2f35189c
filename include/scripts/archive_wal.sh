#!/bin/sh
# archive_command: seal one WAL file in a repository, in the engine's own layout:
#
#   wal/<cluster>/<system identifier>/<timeline>/<file>-<sha256 of the plain file>.zst[.gpg], and beside it .json
#
# The server removes a file as soon as this script says yes (0). So it says so only when the bytes and then their
# description have their names and are durable. Until then they are in a folder whose name starts with a dot; names are
# links, which never overwrite. Whenever this script is killed, calling it again finishes the work.

status=1 # unless everything succeeds. Above 125 the server would end its archiver and not count the failure
trap 'exit "$status"' EXIT
trap exit HUP INT TERM
trap '' PIPE

usage() {
    cat <<'USAGE'
usage: archive_wal.sh [options] %p      as archive_command: %p is the path of the WAL file

Compresses, encrypts and stores a finished WAL file.

  --backups DIR           the repository (BACKUP_DIR, default /backups); it must exist
  --cluster NAME          the server's name in the repository (CLUSTER, default streamflix)
  --recipient FILE        a public key to encrypt for; may be repeated (RECIPIENTS="a.asc b.asc")
  --no-encrypt            store readable files (ENCRYPT=off)
  --system-identifier ID  whose WAL this is; default: that of the data directory where the script runs, as it does when
                          a server calls it
  --help

exit status: 0 the file is sealed and durable, now or since an earlier call; 1 it is not: called wrongly, disk or key at
fault, not this server's file, or another content is stored under its name
USAGE
}

self=$0
[ ! -h "$self" ] || self=$(readlink -f "$self")
# shellcheck source=include/scripts/wal.sh
. "${self%/*}/wal.sh"
trap leave EXIT

backups=${BACKUP_DIR:-/backups}
cluster=${CLUSTER:-streamflix}
system=
encrypt=yes
case ${ENCRYPT:-on} in off | no | false | 0) encrypt=no ;; esac
newline='
'
recipients=
for recipient in ${RECIPIENTS:-}; do recipients=$recipients$recipient$newline; done
named=

while :; do
    case ${1:-} in
        --*=*) option=$1 && shift && set -- "${option%%=*}" "${option#*=}" "$@" ;;
    esac
    case ${1:-} in
        --help | -h) usage && status=0 && exit ;;
        --no-encrypt) encrypt=no && shift && continue ;;
        --backups | --cluster | --recipient | --system-identifier) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        -*) fail "unknown option: $1" "" "$me --help" ;;
        *) break ;;
    esac
    case $1 in
        --backups) backups=$2 ;;
        --cluster) cluster=$2 ;;
        --recipient) named=$named$2$newline ;; # these replace the environment's
        --system-identifier) system=$2 ;;
    esac
    shift 2
done
[ $# -eq 1 ] || fail "called wrongly" "$# paths" "archive_command = '$0 ... %p'"
path=$1
name=${path##*/}
[ -z "$named" ] || recipients=$named
[ "$encrypt" = no ] || [ -n "$recipients" ] ||
    fail "nobody to encrypt for" "" "name public key files with --recipient, or say --no-encrypt"

find_place "$backups" "$cluster" "$system" "$name"
[ -f "$path" ] || fail "there is no $path"
segment_size=null
span="null,$newline \"end_lsn\": null"
if [ "$kind" != note ]; then
    check_header "$path" "$name"
    end=$((start + segment_size))
    span=$(printf '"%X/%08X",\n "end_lsn": "%X/%08X"' \
        $((start >> 32)) $((start & 0xFFFFFFFF)) $((end >> 32)) $((end & 0xFFFFFFFF)))
fi

# durable FILE...: these, and the folders that lead to them, also when an earlier call made them and was killed.
durable() {
    sync -- "$@" "$folder" "$timelines" "$timelines/.." "$timelines/../.." "$backups" ||
        fail "the disk did not take $name" "$folder" "look at the kernel's log (dmesg)"
}

# Left by calls that were killed. Whoever still works in one fails, and is called again.
for left in "$timelines/.archiving-$name."*; do [ ! -e "$left" ] || rm -rf "$left"; done

# Sent again: routine after a restart. Another content under the same name means that two servers believe to be this one.
set -- "$folder/$name"-*.json
if [ -e "$1" ]; then
    take_digest "$(digest <"$path")"
    [ -e "$folder/$name-$digest.json" ] ||
        fail "ALERT: another content of $name is archived already; nothing was stored" "$1" \
            "do two servers archive as $cluster? stop one of them; the other needs a new base backup"
    set -- "$folder/$name-$digest".zst*
    [ -e "$1" ] || fail "the bytes of $name are gone from the archive" "$1" "remove its .json: then they are stored again"
    durable "$@" "$folder/$name-$digest.json"
    status=0
    exit
fi

[ -d "$folder" ] || mkdir -p "$folder" ||
    fail "cannot make $folder" "" "the repository must be writable for the server's account"
work=$(mktemp -d "$timelines/.archiving-$name.XXXXXXXX") || fail "cannot write into $timelines"

# Threads would only take the processors from gpg.
compress() { zstd -1 --single-thread --quiet --stdout "$path"; }

# Encrypt to the recipients; neither anybody's keyring nor home is used.
seal() {
    set --
    IFS=$newline
    set -f
    for recipient in $recipients; do set -- "$@" --recipient-file "$recipient"; done
    IFS=' '
    # shellcheck disable=SC2086 # options, split on purpose
    gpg --homedir /nonexistent $gpg_options --no-autostart --no-keyring --no-options --no-random-seed-file \
        --trust-model always --cipher-algo AES256 --compress-algo none "$@" --output - --encrypt
}

digest <"$path" >"$work/digest" &
if [ "$encrypt" = yes ]; then
    encrypted=true
    ending=.zst.gpg
    # POSIX sh tells nothing about the first program of a pipe: so each that succeeds says a letter.
    said=$({ { compress && echo z >&3; } | { seal && echo g >&3; } >"$work/data"; } 3>&1)
    [ "${#said}" -eq 3 ] ||
        fail "cannot compress and encrypt $path" "" "is the disk full, or a recipient's key missing or expired?"
else
    encrypted=false
    ending=.zst
    compress >"$work/data" || fail "cannot compress $path" "" "is the disk full?"
fi
wait
read -r said <"$work/digest" || fail "cannot compute the checksum of $path"
take_digest "$said"
plain_digest=$digest
final=$folder/$name-$plain_digest
data=$work/data
# An earlier call was killed before it could describe these bytes. They were whole and durable before they had that name.
[ ! -e "$final$ending" ] || data=$final$ending

sizes=$(stat -c %s -- "$path" "$data") || fail "cannot read $path or $data"
plain_bytes=${sizes%"$newline"*}
if [ "$kind" = segment ] && [ "$plain_bytes" -ne "$segment_size" ]; then
    fail "$name is cut" "$plain_bytes bytes of $segment_size" "the server's disk or somebody's copy is at fault"
fi
take_digest "$(digest <"$data")"
sealed_at=$(date -u +%Y-%m-%dT%H:%M:%SZ) || fail "date failed"
cat >"$work/json" <<JSON || fail "cannot write into $work" "" "is the disk full?"
{
 "format": 1,
 "cluster": "$cluster",
 "name": "$name",
 "system_identifier": "$system",
 "timeline": $((0x$timeline)),
 "segment_size": $segment_size,
 "start_lsn": $span,
 "plain_bytes": $plain_bytes,
 "plain_sha256": "$plain_digest",
 "stored_bytes": ${sizes#*"$newline"},
 "stored_sha256": "$digest",
 "encrypted": $encrypted,
 "sealed_at": "$sealed_at",
 "commits": null,
 "first_commit": null,
 "last_commit": null,
 "first_xid": null,
 "last_xid": null,
 "restore_points": null
}
JSON

durable "$data" "$work/json"
if [ "$data" != "$final$ending" ]; then
    ln "$data" "$final$ending" || fail "cannot store $final$ending"
    durable "$final$ending"
fi
ln "$work/json" "$final.json" || fail "cannot store $final.json"
durable "$final.json"
status=0

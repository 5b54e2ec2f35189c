#!/bin/sh
# restore_command: bring one WAL file from the archive, decrypted, decompressed and checked.
#
# A server that hears "no" takes it for the end of the WAL and goes into service with what it has. So this script says no
# (1) only where it knows: the file is absent, and no later one of its timeline is there. Everything else, a hole, a
# damaged file, a missing disk, key or program, is 126: above 125 the server stops its recovery.

status=126
trap 'exit "$status"' EXIT
trap 'status=129; exit' HUP
trap 'status=130; exit' INT
trap 'status=143; exit' TERM # the server's own shutdown: it does not call that a failure
trap '' PIPE

usage() {
    cat <<'USAGE'
usage: restore_wal.sh [options] %f %p      as restore_command: %f is the WAL file, %p the path where it is wanted

  --backups DIR           the repository (BACKUP_DIR, default /backups)
  --cluster NAME          the server's name in the repository (CLUSTER, default streamflix)
  --gpg-home DIR          a gpg home with one of the recipients' private keys (default: GNUPGHOME or ~/.gnupg)
  --passphrase-file FILE  the passphrase of that key
  --system-identifier ID  whose WAL this is; default: that of the data directory where the script runs, as it does when
                          a server calls it
  --help

exit status: 0 the whole file is in place; 1 it is not archived, nor is any later one of its timeline; 126 anything else
USAGE
}

self=$0
[ ! -h "$self" ] || self=$(readlink -f "$self")
# shellcheck source=include/scripts/wal.sh
. "${self%/*}/wal.sh"
trap leave EXIT

backups=${BACKUP_DIR:-/backups}
cluster=${CLUSTER:-streamflix}
gpg_home=
passphrase_file=
system=

while :; do
    case ${1:-} in
        --*=*) option=$1 && shift && set -- "${option%%=*}" "${option#*=}" "$@" ;;
    esac
    case ${1:-} in
        --help | -h) usage && status=0 && exit ;;
        --backups | --cluster | --gpg-home | --passphrase-file | --system-identifier) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        -*) fail "unknown option: $1" "" "$me --help" ;;
        *) break ;;
    esac
    case $1 in
        --backups) backups=$2 ;;
        --cluster) cluster=$2 ;;
        --gpg-home) gpg_home=$2 ;;
        --passphrase-file) passphrase_file=$2 ;;
        --system-identifier) system=$2 ;;
    esac
    shift 2
done
[ $# -eq 2 ] || fail "called wrongly" "$# names" "restore_command = '$0 ... %f %p'"
name=$1
target=$2
find_place "$backups" "$cluster" "$system" "$name"
[ -d "$timelines" ] || fail "nothing is archived of this server" "$timelines" "is its disk mounted? see --cluster"

# Without a word: a server asks so at the end of each recovery, and a standby all the time.
absent() {
    status=1
    exit
}

# listed FOLDER: its names, and a last line that is there only if they are all: a disk that fails is no empty one.
listed() { ls -U -- "$1" && echo .; }

# A timeline's folder comes with its first file.
if [ ! -d "$folder" ]; then
    case $(listed "$timelines") in
        *"$timeline"*) fail "cannot read $folder" ;;
        *.) absent ;;
        *) fail "cannot read $timelines" ;;
    esac
fi

# Later: names are compared as text (x), awk would take them for numbers. A history's name has a dot among the first 24
# characters, which sorts before the digits of a segment.
found=$(listed "$folder" | awk -v name="$name" -v kind="$kind" '
    $0 == "." { whole = 1 }
    !/\.json$/ { next }
    index($0, name "-") == 1 { sealed++; file = $0 }
    kind == "segment" && "x" substr($0, 1, 24) > "x" name { later = $0 }
    END {
        if (!whole) print "unreadable"
        else if (sealed > 1) print "ambiguous"
        else if (sealed) print "sealed " file
        else if (later) print "hole " later
        else print "absent"
    }') || fail "awk failed"
case $found in
    sealed*) stem=$folder/${found#sealed } && stem=${stem%.json} ;;
    absent) absent ;;
    hole*) fail "$name is missing in the archive, but later WAL is there" "${found#hole }" "look for it in another repository, or on the server" ;;
    ambiguous) fail "$name has two different contents in the archive" "$folder" "two servers archived as $cluster: find out which is right" ;;
    *) fail "cannot read $folder" ;;
esac

decompress() { zstd --decompress --quiet --stdout; }

unlock() {
    set --
    [ -z "$gpg_home" ] || set -- --homedir "$gpg_home"
    [ -z "$passphrase_file" ] || set -- "$@" --pinentry-mode loopback --passphrase-file "$passphrase_file"
    # shellcheck disable=SC2086 # options, split on purpose
    gpg $gpg_options --lock-never "$@" --output - --decrypt
}

# One name for each target: a call that was killed leaves at most one of these, and the next one overwrites it.
case $target in */*) work=${target%/*}/.${target##*/}.restoring ;; *) work=.$target.restoring ;; esac
if [ -e "$stem.zst.gpg" ]; then
    # POSIX sh tells nothing about the first program of a pipe: so each that succeeds says a letter.
    said=$({ { unlock <"$stem.zst.gpg" && echo g >&3; } | { decompress && echo z >&3; } >"$work"; } 3>&1)
    [ "${#said}" -eq 3 ] ||
        fail "cannot decrypt $name" "$stem.zst.gpg" "is the disk full, the key missing (see --gpg-home), or the file damaged?"
else
    decompress <"$stem.zst" >"$work" ||
        fail "cannot decompress $name" "$stem.zst" "is the disk full, or the file damaged?"
fi

# The archive's name of a file ends with the checksum of its content.
take_digest "$(digest <"$work")"
[ "$stem" = "$folder/$name-$digest" ] ||
    fail "$name in the archive is damaged" "its content does not match the checksum in its name" "use another repository's copy"
if [ "$kind" != note ]; then
    check_header "$work" "$name"
    [ "$kind" = partial ] || [ "$(stat -c %s -- "$work")" = "$segment_size" ] ||
        fail "$name in the archive is no whole segment" "$stem"
fi
mv -f -T -- "$work" "$target" || fail "cannot rename $work to $target"
work=
status=0

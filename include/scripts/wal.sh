# shellcheck shell=sh
# What archive_wal.sh and restore_wal.sh share; read by them, not to be run. A server waits for them, segment after
# segment: they start as few programs as they can, and don't read common.sh.

set -u
umask 077
LC_ALL=C
export LC_ALL

me=${0##*/}
work= # what is unfinished, removed at the end
# shellcheck disable=SC2034 # for the scripts
gpg_options="--batch --yes --no-tty --quiet --disable-dirmngr --no-auto-key-locate"

say() { printf '%s\n' "$*" >&2 || :; }

# fail MESSAGE [DETAIL [HINT]]: end with $status, which each script has set before it knows better.
fail() {
    say "$me: $1"
    if [ -n "${2:-}" ]; then say "  detail: $2"; fi
    if [ -n "${3:-}" ]; then say "  hint: $3"; fi
    exit
}

leave() {
    trap '' HUP INT TERM
    [ -z "$work" ] || rm -rf "$work"
    # shellcheck disable=SC2154 # the scripts' own
    exit "$status"
}

# find_place BACKUPS CLUSTER SYSTEM NAME: set $timeline and $kind (segment, partial, note) by the file's name, $system to
# the one given or that of the data directory in which a server runs its commands, $timelines and $folder.
# shellcheck disable=SC2034 # for the scripts
find_place() {
    place_digits='[0-9A-F][0-9A-F][0-9A-F][0-9A-F][0-9A-F][0-9A-F][0-9A-F][0-9A-F]'
    # shellcheck disable=SC2254 # patterns
    case $4 in
        $place_digits$place_digits$place_digits) kind=segment ;;
        $place_digits$place_digits$place_digits.partial) kind=partial ;;
        $place_digits$place_digits$place_digits.$place_digits.backup | $place_digits.history) kind=note ;;
        *) fail "not the name of a WAL file: $4" ;;
    esac
    # The same rule as the engine's: the name becomes a folder's.
    case $2 in
        [!a-z]* | '' | *[!a-z0-9_-]*) fail "not a cluster name: $2 (small letters, digits, _ and -)" ;;
    esac
    [ "${#2}" -le 31 ] || fail "the cluster name is longer than 31 characters: $2"
    [ -d "$1" ] || fail "the repository does not exist: $1" "" "is its disk mounted? see --backups"
    system=$3
    if [ -z "$system" ]; then
        system=$(od -An -v -N8 -tu8 global/pg_control) ||
            fail "cannot tell which server's WAL this is" "$PWD is no data directory" "see --system-identifier"
        system=${system##* }
    fi
    case $system in '' | *[!0-9]*) fail "not a system identifier: $system" "" "pg_controldata shows it" ;; esac
    timeline=${4%"${4#????????}"}
    timelines=$1/wal/$2/$system
    folder=$timelines/$timeline
}

# check_header FILE NAME: the first page must say that it is this server's ($system), of the timeline and at the position
# that the name tells; sets $segment_size and $start. Behind a promotion in the middle of a segment, the page is of the
# timeline before.
check_header() {
    # Every 16 bytes as eight numbers, then as four, then as two; 40 bytes are 35 numbers.
    header=$(od -An -v -N40 -tu2 -tu4 -tu8 "$1") || fail "cannot read $1"
    header_file=$1
    header_name=$2
    # shellcheck disable=SC2086 # numbers
    set -- $header
    if [ $# -ne 35 ] || [ $(($1 & 0xFF00)) -ne $((0xD100)) ] || [ $(($2 & 2)) -eq 0 ]; then
        fail "$header_name is no WAL segment" "the first page of $header_file has no header" "it is cut, overwritten or empty"
    fi
    header_timeline=${10}
    start=${14}
    header_system=${28}
    segment_size=${33}
    if [ "$segment_size" -lt 1048576 ] || [ $((segment_size & (segment_size - 1))) -ne 0 ]; then
        fail "$header_name is no WAL segment" "$segment_size is no segment's size"
    fi
    header_low=${header_name%%.*}
    header_low=${header_low#????????????????}
    header_high=${header_name#????????}
    header_high=${header_high%"${header_high#????????}"}
    [ "$header_system" = "$system" ] ||
        fail "$header_name is another server's" "$header_file is of system $header_system, expected $system"
    [ "$start" -eq $(((0x$header_high * (4294967296 / segment_size) + 0x$header_low) * segment_size)) ] ||
        fail "$header_name holds other WAL than its name says" "$header_file starts at position $start"
    [ "$header_timeline" -le $((0x$timeline)) ] ||
        fail "$header_name holds other WAL than its name says" "$header_file is of timeline $header_timeline"
}

# sha256 of standard input, as sha256sum or gpg prints it; gpg is four times as fast, and prints capital letters.
if command -v gpg >/dev/null; then
    digest() { gpg --homedir /nonexistent --no-keyring --no-options --with-colons --print-md SHA256 | tr A-F a-f; }
else
    digest() { sha256sum; }
fi

# take_digest TEXT: set $digest to the 64 digits in what digest printed.
take_digest() {
    digest=${1#:*:}
    digest=${digest%%[: ]*}
    [ "${#digest}" -eq 64 ] || fail "cannot compute a checksum"
}

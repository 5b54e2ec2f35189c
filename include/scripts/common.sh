# shellcheck shell=sh
# What backup.sh, verify_backup.sh and restore.sh share; read by them, not to be run. See also sql_text.sh.
#
# POSIX sh has no pipefail, so nothing here or there is piped that may fail: programs are joined by a named pipe and
# each one's status is waited for, or go through a file. Names of databases travel as hexadecimal digits, because a
# name may hold quotes, newlines or $(...), and command substitution eats trailing newlines.

set -eu
umask 077
# Messages are read by these scripts (gpg's, pg_restore's), and names are bytes.
LC_ALL=C
export LC_ALL
# psql takes a client encoding from here; a dump must keep its database's own.
unset PGCLIENTENCODING
PGAPPNAME=${PGAPPNAME:-pgbackup}
PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-15}
export PGAPPNAME PGCONNECT_TIMEOUT

NO=1          # the answer is no: damaged, not restorable, refused
USAGE=2       # called wrongly
ENVIRONMENT=3 # server, disk, key or program: nothing is said about the backup

me=${0##*/}
work=         # private folder for everything temporary, removed at the end
gpg_home=     # private gpg home with an imported key, its agent killed at the end
running=      # processes that have to end with this script
cleanup=:     # what else a script has to undo
answer=none   # "no" after fail $NO: a program that fails unexpectedly may exit with 1, too, and is no answer

say() { printf '%s\n' "$*" >&2; }

# fail CODE MESSAGE [DETAIL [HINT]]: what, where, what to do.
fail() {
    if [ "$1" -eq "$NO" ]; then answer=no; fi
    say "$me: $2"
    if [ -n "${3:-}" ]; then say "  detail: $3"; fi
    if [ -n "${4:-}" ]; then say "  hint: $4"; fi
    exit "$1"
}

usage_error() { fail "$USAGE" "$1" "" "$me --help"; }

# fail_from CODE MESSAGE FILE [HINT]: the detail is the end of what a program wrote to standard error.
fail_from() {
    if [ "$1" -eq "$NO" ]; then answer=no; fi
    say "$me: $2"
    tail -n 20 "$3" | sed 's/^/  detail: /' >&2 || :
    if [ -n "${4:-}" ]; then say "  hint: $4"; fi
    exit "$1"
}

finish() {
    finish_status=$?
    trap '' HUP INT TERM
    for finish_pid in $running; do
        kill -TERM "$finish_pid" 2>/dev/null || :
    done
    for finish_pid in $running; do
        wait "$finish_pid" 2>/dev/null || :
    done
    $cleanup || :
    if [ -n "$gpg_home" ]; then
        gpgconf --homedir "$gpg_home" --kill all 2>/dev/null || :
        rm -rf "$gpg_home"
    fi
    cd / && if [ -n "$work" ]; then rm -rf "$work"; fi
    if [ "$finish_status" -eq "$NO" ] && [ "$answer" != no ]; then finish_status=$ENVIRONMENT; fi
    exit "$finish_status"
}

# make_work PARENT: everything temporary lives in $work. A signal ends the script, and ending it cleans up.
make_work() {
    trap finish EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    work=$(mktemp -d "$1/pgbackup.XXXXXXXX") ||
        fail "$ENVIRONMENT" "cannot make a private folder for temporary files" "$1" "see --work"
    work=$(cd "$work" && pwd -P) || fail "$ENVIRONMENT" "cannot enter $work"
}

# attend COMMAND...: run it so that a signal reaches this script at once, not when the command ends.
attend() {
    "$@" &
    running=$!
    attend_status=0
    wait "$running" || attend_status=$?
    running=
    return "$attend_status"
}

# require PROGRAM...: stop now rather than half-way.
require() {
    for require_name in "$@"; do
        command -v "$require_name" >/dev/null 2>&1 ||
            fail "$ENVIRONMENT" "$require_name is not installed" "PATH=$PATH" \
                "install it; PostgreSQL's programs may be named by --bin DIR or PG_BIN"
    done
}

# find_postgres PROGRAM [DIR]: put a folder of PostgreSQL's programs on the PATH. Debian and Red Hat keep the server's
# programs off it, one folder a version: then the newest is taken.
find_postgres() {
    if [ -n "${2:-}" ]; then
        [ -x "$2/$1" ] || fail "$ENVIRONMENT" "$1 is not in $2" "" "see --bin"
        PATH=$2:$PATH
    elif ! command -v "$1" >/dev/null 2>&1; then
        find_best=0
        find_folder=
        for find_program in /usr/lib/postgresql/*/bin/"$1" /usr/pgsql-*/bin/"$1"; do
            [ -x "$find_program" ] || continue
            find_version=$(printf '%s' "$find_program" | tr -cd 0-9)
            if [ "${find_version:-0}" -gt "$find_best" ]; then
                find_best=$find_version
                find_folder=${find_program%/*}
            fi
        done
        [ -z "$find_folder" ] || PATH=$find_folder:$PATH
    fi
    export PATH
    require "$1"
}

# version_of PROGRAM: the major version, such as 18.
version_of() {
    version_text=$("$1" --version 2>&1) ||
        fail "$ENVIRONMENT" "$1 does not run" "$version_text" "install the libraries that it misses"
    version_text=${version_text#*"(PostgreSQL) "}
    version_text=${version_text%%[!0-9]*}
    case $version_text in
        '') fail "$ENVIRONMENT" "cannot tell the version of $1" ;;
        *) printf '%s' "$version_text" ;;
    esac
}

# --- names ------------------------------------------------------------------------------------------------------------

# hex_of TEXT: its bytes in hexadecimal.
hex_of() {
    hex=$(printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n')
    # The pipe hides a failure, the length shows it; ${#} counts bytes here (LC_ALL=C).
    [ "${#hex}" -eq $((2 * ${#1})) ] || fail "$ENVIRONMENT" "od or tr failed"
}

# text_of HEX: set $text to these bytes; the x at the end keeps newlines before it.
text_of() {
    text=$(octal=$(printf '%s\n' "$1" | awk '{
        digits = "0123456789abcdef"
        for (i = 1; i < length($0); i += 2) {
            byte = 16 * (index(digits, substr($0, i, 1)) - 1) + index(digits, substr($0, i + 1, 1)) - 1
            printf "\\0%o%o%o", int(byte / 64), int(byte / 8) % 8, byte % 8
        }
    }') && printf '%bx' "$octal") || fail "$ENVIRONMENT" "awk failed"
    text=${text%x}
}

# file_name_of HEX: the percent-encoded name under which a database is stored; the engine writes the same names.
file_name_of() {
    printf '%s\n' "$1" | awk '{
        digits = "0123456789abcdef"; upper = "0123456789ABCDEF"
        plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"
        for (i = 1; i < length($0); i += 2) {
            high = index(digits, substr($0, i, 1)); low = index(digits, substr($0, i + 1, 1))
            byte = 16 * (high - 1) + low - 1
            character = byte > 32 && byte < 127 ? sprintf("%c", byte) : ""
            if (character != "" && index(plain, character) && !(i == 1 && character == "."))
                printf "%s", character
            else
                printf "%%%s%s", substr(upper, high, 1), substr(upper, low, 1)
        }
    }'
}

# hex_of_file_name NAME: the inverse.
hex_of_file_name() {
    hex_of "$1"
    hex=$(printf '%s\n' "$hex" | awk '{
        out = ""
        for (i = 1; i < length($0); i += 2) {
            if (substr($0, i, 2) != "25") { out = out substr($0, i, 2); continue }
            # %XY: the two characters X and Y are hexadecimal digits, each two digits here: 3x is a digit, 4x or 6x a letter.
            out = out nibble(substr($0, i + 2, 2)) nibble(substr($0, i + 4, 2))
            i += 4
        }
        print out
    }
    function nibble(code) {
        return substr(code, 1, 1) == "3" ? substr(code, 2, 1) : substr("abcdef", substr(code, 2, 1), 1)
    }')
}

# conninfo_of HEX: set $conninfo to dbname='...'. Any name is safe in it, and never read as a connection string itself.
conninfo_of() {
    conninfo_hex=$(printf '%s\n' "$1" | sed 's/../&,/g; s/5c,/5c5c,/g; s/27,/5c27,/g; s/,//g')
    text_of "$conninfo_hex"
    # shellcheck disable=SC2034 # for the caller
    conninfo="dbname='$text'"
}

# identifier_of HEX: set $identifier to the name as SQL quotes it.
identifier_of() {
    identifier_hex=$(printf '%s\n' "$1" | sed 's/../&,/g; s/22,/2222,/g; s/,//g')
    text_of "$identifier_hex"
    # shellcheck disable=SC2034 # for the caller
    identifier="\"$text\""
}

# shown HEX: a name for messages and listings: no newline or escape sequence reaches a terminal.
shown() {
    text_of "$1"
    printf '%s' "$text" | tr '\000-\037\177' '?'
}

# --- a stored backup --------------------------------------------------------------------------------------------------

# read_sums DIR: copy SHA256SUMS to $work/sums, or say why it is none. It is written last: without it there is no backup.
read_sums() {
    [ -d "$1" ] || fail "$ENVIRONMENT" "no such folder: $1" "" "give the folder of one backup, such as /backups/full/streamflix_20260131_020000_full"
    if ! [ -r "$1" ] || ! [ -x "$1" ]; then
        fail "$ENVIRONMENT" "cannot read $1" "" "backups belong to the backup's account: run as that"
    fi
    [ -f "$1/SHA256SUMS" ] || fail "$NO" "$1 is not a complete backup" "it has no SHA256SUMS, which is written last" "take another one"
    cp "$1/SHA256SUMS" "$work/sums" || fail "$ENVIRONMENT" "cannot read $1/SHA256SUMS"
    awk 'length($1) != 64 || $1 ~ /[^0-9a-f]/ || substr($0, 65, 2) != "  " || length($0) < 67 ||
         substr($0, 67) ~ /[\/\\]/ || seen[substr($0, 67)]++ { wrong = 1 }
         END { exit wrong || NR == 0 }' "$work/sums" ||
        fail "$NO" "$1/SHA256SUMS is damaged" "a line is not 'digest, two blanks, name'" "use another copy of this backup"
    sed 's/^.\{66\}//' "$work/sums" >"$work/names" || fail "$ENVIRONMENT" "sed failed"
}

# is_key NAME: key.1.gpg and so on; a database may be called key.1, its dump key.1.dump.gpg.
is_key() {
    is_key_number=${1#key.}
    [ "$is_key_number" != "$1" ] && [ "${1%.gpg}" != "$1" ] || return 1
    case ${is_key_number%.gpg} in '' | *[!0-9]*) return 1 ;; esac
}

listed() { grep -qxF -e "$1" "$work/names"; }

# check_sums DIR SUMS: compare stored files with their checksums.
check_sums() {
    while IFS= read -r check_line; do
        check_name=${check_line#*  }
        [ -e "$1/$check_name" ] ||
            fail "$NO" "$check_name is missing" "$1" "use another copy of this backup"
        if ! [ -f "$1/$check_name" ] || ! [ -r "$1/$check_name" ]; then
            fail "$ENVIRONMENT" "cannot read $1/$check_name" "" "backups belong to the backup's account: run as that"
        fi
    done <"$2"
    cd "$1" || fail "$ENVIRONMENT" "cannot enter $1"
    attend sha256sum --check --strict --quiet "$2" >"$work/sha256sum" 2>&1 || {
        check_bad=$(sed -n 's/: FAILED$//p' "$work/sha256sum")
        [ -n "$check_bad" ] || fail_from "$ENVIRONMENT" "cannot read the backup" "$work/sha256sum"
        fail "$NO" "does not match its checksum: $check_bad" "$1" "use another copy of this backup"
    }
    cd "$work" || fail "$ENVIRONMENT" "cannot enter $work"
}

# gpg without anybody's keyring or agent: a passphrase file is all it needs. It becomes gpg, so that a signal finds it:
# call it in the background or by attend only.
gpg_symmetric() {
    exec gpg --homedir /nonexistent --batch --yes --no-tty --quiet --no-autostart --no-keyring --no-options \
        --pinentry-mode loopback --passphrase-file "$work/passphrase" "$@"
}

# open_key DIR KEY PASSPHRASE_FILE: write the backup's passphrase to $work/passphrase. KEY and PASSPHRASE_FILE may be
# empty: then the caller's own gpg home and agent are asked.
open_key() {
    require gpg gpgconf
    open_options="--batch --yes --no-tty --quiet --disable-dirmngr --no-auto-key-locate"
    if [ -n "$2" ]; then
        [ -r "$2" ] || fail "$ENVIRONMENT" "cannot read the private key" "$2" "see --key"
        # Short on purpose: the agent's socket has a path, and that has a limit of about 100 characters.
        gpg_home=$(mktemp -d /tmp/g.XXXXXXXX) || fail "$ENVIRONMENT" "cannot make a private gpg home in /tmp"
    fi
    open_directory=$1
    open_private=$2
    open_secret=${3:-}
    set --
    if [ -n "$gpg_home" ]; then set -- --homedir "$gpg_home"; fi
    if [ -n "$open_secret" ]; then
        [ -r "$open_secret" ] || fail "$ENVIRONMENT" "cannot read the key's passphrase" "$open_secret" "see --passphrase-file"
        set -- "$@" --pinentry-mode loopback --passphrase-file "$open_secret"
    fi
    if [ -n "$open_private" ]; then
        # shellcheck disable=SC2086 # options, split on purpose
        gpg $open_options "$@" --import "$open_private" >/dev/null 2>"$work/gpg.err" ||
            fail_from "$ENVIRONMENT" "cannot import the private key $open_private" "$work/gpg.err" "is the passphrase right? see --passphrase-file"
    fi
    : >"$work/keys"
    for open_file in "$open_directory"/key.*.gpg; do
        open_name=${open_file##*/}
        is_key "$open_name" || continue
        open_number=${open_name#key.}
        printf '%s %s\n' "${open_number%.gpg}" "$open_name" >>"$work/keys"
    done
    sort -rn "$work/keys" >"$work/keys.sorted" || fail "$ENVIRONMENT" "sort failed"
    [ -s "$work/keys.sorted" ] || fail "$NO" "the backup is encrypted but holds no key file" "$open_directory" "use another copy of this backup"
    while read -r open_number open_name <&4; do
        printf '%s\n' "$open_name:" >>"$work/key.err"
        # shellcheck disable=SC2086
        gpg $open_options "$@" --output "$work/passphrase" --decrypt "$open_directory/$open_name" 2>>"$work/key.err" || continue
        # SHA256SUMS lists the first key file; a later one was added by whoever could: it has to prove itself.
        if listed "$open_name" || attend gpg_symmetric --output /dev/null --decrypt "$open_directory/globals.sql.gpg" 2>>"$work/key.err"; then
            [ -s "$work/passphrase" ] || fail "$NO" "$open_name holds no passphrase" "$open_directory" "use another copy of this backup"
            return 0
        fi
    done 4<"$work/keys.sorted"
    if grep -q -i -e 'invalid packet' -e 'no valid OpenPGP' -e 'CRC error' -e 'manipulated' "$work/key.err"; then
        fail_from "$NO" "no key file opens, and one is damaged" "$work/key.err" "use another copy of this backup"
    fi
    fail_from "$ENVIRONMENT" "no private key here opens this backup" "$work/key.err" \
        "give one of the recipients' private keys: --key FILE --passphrase-file FILE"
}

# decrypt STORED PLAIN: under a dot name until gpg has said that nobody changed the file: it writes before it knows.
decrypt() {
    decrypt_part=${2%/*}/.part
    if ! attend gpg_symmetric --output "$decrypt_part" --decrypt "$1" 2>"$work/gpg.err"; then
        if grep -q -i 'no space left' "$work/gpg.err"; then
            fail_from "$ENVIRONMENT" "no space left in ${2%/*}" "$work/gpg.err" "see --work"
        fi
        fail_from "$NO" "${1##*/} does not decrypt" "$work/gpg.err" "use another copy of this backup"
    fi
    mv "$decrypt_part" "$2" || fail "$ENVIRONMENT" "cannot rename $decrypt_part"
}

# unpack ARCHIVE FOLDER: the tar of a directory-format dump.
unpack() {
    mkdir "$2" || fail "$ENVIRONMENT" "cannot make $2"
    if ! attend tar --extract --file="$1" --directory="$2" 2>"$work/tar.err"; then
        if grep -q -i 'no space left' "$work/tar.err"; then
            fail_from "$ENVIRONMENT" "no space left in $2" "$work/tar.err" "see --work"
        fi
        fail_from "$NO" "${1##*/} does not unpack" "$work/tar.err" "use another copy of this backup"
    fi
}

# need_space KILOBYTES FOLDER: stop before an hour's work, not after it.
need_space() {
    need_free=$(df -Pk "$2" | awk 'NR == 2 { print $4 }')
    case $need_free in '' | *[!0-9]*) return 0 ;; esac
    [ "$need_free" -ge "$1" ] ||
        fail "$ENVIRONMENT" "not enough space in $2" "$1 kB are needed, $need_free kB are free" "see --work"
}

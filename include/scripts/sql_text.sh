# shellcheck shell=sh disable=SC2154 # $work and $me are of common.sh
# The SQL that pg_dump and pg_dumpall write, taken apart for a restore under another name or into isolation; and what
# pg_restore says when it fails. Read by verify_backup.sh and restore.sh after common.sh, not to be run.

# An awk program that collects whole statements and gives each to decide(), which the caller adds. Comments and psql's
# own commands (\connect, \restrict, \encoding) are left out; one anywhere else would be an attempt to make it run a
# program.
# Quotes inside quotes are doubled, also in E'...', so that toggling is enough.
# shellcheck disable=SC2016 # awk's $0
STATEMENTS='
function scan(line,    i, c) {
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (inside != "") { if (c == inside) inside = "" }
        else if (c == "\"" || c == "\047") inside = c
        else if (c == "\\") { broken = 1; exit 1 }
    }
}
# The identifier at the start of a text, with its quotes if it has any.
function identifier(text,    i) {
    if (substr(text, 1, 1) != "\"") { match(text, /^[^ ;,]*/); return substr(text, 1, RLENGTH) }
    for (i = 2; i <= length(text); i++)
        if (substr(text, i, 1) == "\"") {
            if (substr(text, i + 1, 1) != "\"") return substr(text, 1, i)
            i++
        }
    return text
}
function bare(name) {
    if (substr(name, 1, 1) != "\"") return name
    name = substr(name, 2, length(name) - 2); gsub(/""/, "\"", name); return name
}
function after(text, word) { return substr(text, length(word) + 1) }
statement == "" && inside == "" && (/^--/ || /^[ \t]*$/ || /^\\(restrict|unrestrict|encoding|connect) /) { next }
{
    statement = begun ? statement "\n" $0 : $0; begun = 1
    scan($0)
    if (inside == "" && /;[ \t]*$/) { decide(statement); statement = ""; begun = 0 }
}
END { if (broken || begun) { print "not what pg_dump writes" >"/dev/stderr"; exit 1 } }
'

# globals_for_isolation FILE BOOTSTRAP: what a throw-away server may run. No tablespaces: they name folders by absolute
# path, production's perhaps. Not the bootstrap superuser: the server has it, and it must stay able to log in.
globals_for_isolation() {
    BOOTSTRAP=$2 awk "$STATEMENTS"'
    function decide(s,    role) {
        if (s ~ /^(CREATE|ALTER|DROP|COMMENT ON) TABLESPACE / || s ~ /^SECURITY LABEL .*ON TABLESPACE / ||
            s ~ /^(GRANT|REVOKE) .*ON TABLESPACE /) return
        if (s ~ /^(CREATE|ALTER) ROLE /) {
            sub(/ /, " ", s); role = substr(s, index(s, "ROLE ") + 5)
            if (bare(identifier(role)) == ENVIRON["BOOTSTRAP"] && (s ~ /^CREATE/ || after(role, identifier(role)) ~ /^ WITH/))
                return
        }
        print s
    }' "$1"
}

# missing_globals FILE EXISTING: only what makes roles that are not there yet; roles that exist are left as they are.
# EXISTING lists them, quoted as SQL quotes them.
missing_globals() {
    EXISTING=$2 awk "$STATEMENTS"'
    BEGIN { while ((getline line < ENVIRON["EXISTING"]) > 0) exists[bare(line)] = 1 }
    function decide(s,    rest, role) {
        if (s ~ /^SET /) { print s; return }
        if (s ~ /^CREATE ROLE /) {
            role = bare(identifier(after(s, "CREATE ROLE ")))
            if (role in exists) return
            made[role] = 1; print s; return
        }
        if (s ~ /^ALTER ROLE /) role = bare(identifier(after(s, "ALTER ROLE ")))
        else if (s ~ /^COMMENT ON ROLE /) role = bare(identifier(after(s, "COMMENT ON ROLE ")))
        else if (s ~ /^GRANT /) {
            rest = after(s, "GRANT "); rest = after(rest, identifier(rest))
            if (rest !~ /^ TO /) return
            role = bare(identifier(after(rest, " TO ")))
            sub(/ GRANTED BY .*;$/, ";", s) # the grantor may be another one here
        } else return
        if (role in made) print s
    }' "$1"
}

# header ARCHIVE NEW_IDENTIFIER CREATE PROPERTIES: write the SQL that makes the archive's database under another name:
# CREATE DATABASE with encoding and locale into one file; owner, settings and grants into the other.
# KEEP_TABLESPACE=yes leaves a tablespace in.
header() {
    attend pg_restore --create --list "$1" >"$work/toc" 2>"$work/header.err" ||
        fail_by "pg_restore cannot read ${1##*/}" "$work/header.err"
    # Number; OIDs; then kind, schema (none: -) and name.
    awk '$1 ~ /^[0-9]+;$/ && ($4 == "DATABASE" || ($4 == "ACL" || $4 == "COMMENT") && $5 == "-" && $6 == "DATABASE" ||
         $4 == "SECURITY" && $5 == "LABEL" && $6 == "-" && $7 == "DATABASE")' "$work/toc" >"$work/toc.header"
    # A name with a newline: pg_restore writes CREATE DATABASE and the owner, then refuses to write a \connect.
    if ! attend pg_restore --create --use-list="$work/toc.header" --file="$work/header.sql" "$1" 2>"$work/header.err"; then
        grep -q '^database name contains a newline' "$work/header.err" ||
            fail_by "pg_restore cannot read ${1##*/}" "$work/header.err"
        say "$me: warning: ${1##*/}: settings and grants of a database with a newline in its name are not restored"
    fi
    NEW=$2 CREATE=$3 PROPERTIES=$4 KEEP=${KEEP_TABLESPACE:-no} awk "$STATEMENTS"'
    function decide(s,    rest, place) {
        if (s ~ /^SET (client_encoding|standard_conforming_strings) /) {
            if (!seen[s]++) { print s >ENVIRON["CREATE"]; print s >ENVIRON["PROPERTIES"] }
            return
        }
        if (s ~ /^(SET|SELECT) /) return
        if (s ~ /^CREATE DATABASE /) {
            rest = after(s, "CREATE DATABASE "); old = identifier(rest); rest = after(rest, old)
            if (ENVIRON["KEEP"] != "yes") sub(/ TABLESPACE = ("([^"]|"")*"|[^ ;"]+)/, "", rest)
            print "CREATE DATABASE " ENVIRON["NEW"] rest >ENVIRON["CREATE"]
            return
        }
        place = index(s, "DATABASE " old)
        if (old == "" || !place) { broken = 1; exit 1 }
        print substr(s, 1, place + 8) ENVIRON["NEW"] substr(s, place + 9 + length(old)) >ENVIRON["PROPERTIES"]
    }' "$work/header.sql" || fail "$ENVIRONMENT" "cannot read the settings of the database from ${1##*/}"
    grep -q '^CREATE DATABASE ' "$3" || fail "$NO" "${1##*/} does not say how its database was made"
}

# blame FILE: who is at fault for a pg_restore error, the backup or this machine?
blame() {
    if grep -q -E -e 'unsupported version|extension "[^"]*" is not available|could not open extension control file' \
        -e 'could not access file|could not load library|must be loaded via' \
        -e 'invalid (L[CO][A-Z_]* ?(locale )?name|locale name)|not supported (in|by) this build|could not create locale' \
        -e 'could not open collator|No space left on device|out of (shared )?memory|could not resize shared memory' \
        -e 'server closed the connection|terminating connection|the database system is|error: connection to server' \
        -e 'Permission denied|compression is not supported' "$1"; then
        printf '%s' "$ENVIRONMENT"
    else
        printf '%s' "$NO"
    fi
}

# failed_statements FILE: the first lines of the errors after which pg_restore went on. Not by its prefix, which parallel
# workers write into each other's lines, and not by its own total, in which it counts theirs twice.
failed_statements() {
    grep -E '(could not execute query|COPY failed for table ".*"|error returned by PQ[A-Za-z]*): ERROR:  ' "$1" || :
}

# fail_by MESSAGE FILE: end with what PostgreSQL's programs wrote there, and blame whoever is at fault.
fail_by() {
    if [ "$(blame "$2")" -eq "$NO" ]; then
        fail_from "$NO" "$1" "$2" "use another copy of this backup"
    fi
    fail_from "$ENVIRONMENT" "$1" "$2" "this machine is at fault: an older PostgreSQL ($(command -v pg_restore)), a missing extension or locale, no space, no connection; see --bin, --work"
}

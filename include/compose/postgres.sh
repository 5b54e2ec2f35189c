#!/bin/sh
# A PostgreSQL server of docker-compose.yaml: made on its first start, with the SQL files that are its arguments; then run.
# The settings and the access rules are include/postgres's; only the address in the latter is this network's.
set -eu
umask 077

for secret in /run/secrets/*; do
    if [ -n "$(find -L "$secret" -perm /022)" ] || [ -n "$(find -L "$secret" -perm /004)" ]; then
        echo "$secret can be read or changed by others: chmod 600 it, and chown it to $(id -u)" >&2
        exit 2
    fi
done

settings="include 'pgbackup.conf'
listen_addresses = '*'
unix_socket_directories = '/tmp'
hba_file = '/tmp/pg_hba.conf'
ssl = on
ssl_cert_file = '/etc/postgresql/server.crt'
ssl_key_file = '/run/secrets/server.key'
summarize_wal = on
wal_summary_keep_time = '10d'
idle_replication_slot_timeout = 0
track_commit_timestamp = on"

access() { # nobody but the server's own account is in this container, where the socket is
    echo "local all all trust"
    grep -v '^#' /etc/postgresql/pg_hba.conf | sed 's|192\.0\.2\.10/32|samenet|'
    echo "hostssl all all samenet scram-sha-256"
}
access >/tmp/pg_hba.conf

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    new=$PGDATA.new
    rm -rf "$new"
    mkdir -p "$(dirname "$PGDATA")"
    initdb --pgdata="$new" --username=postgres --pwfile=/run/secrets/postgres.password --data-checksums \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 \
        --locale=C
    echo "include_if_exists 'compose.conf'" >>"$new/postgresql.conf"
    pg_ctl --pgdata="$new" --wait --silent start \
        -o "-c listen_addresses= -c unix_socket_directories=/tmp -c track_commit_timestamp=on"
    for file in "$@"; do
        psql --no-psqlrc --quiet --username=postgres --dbname=postgres --set=ON_ERROR_STOP=1 --file="$file"
    done
    pg_ctl --pgdata="$new" --wait --silent --mode=fast stop
    mv "$new" "$PGDATA"
fi
cp /etc/postgresql/pgbackup.conf "$PGDATA/pgbackup.conf"
printf '%s\n' "$settings" >"$PGDATA/compose.conf"
exec postgres -D "$PGDATA"

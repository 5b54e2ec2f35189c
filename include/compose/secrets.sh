#!/bin/sh
# Makes every secret of docker-compose.yaml, once: passwords, keys, and the files that carry them. As root, so that they
# belong to account 999, which reads them.
#
#   include/compose/secrets.sh [FOLDER]          default: secrets
set -eu
umask 077
folder=${1:-secrets}
if [ -e "$folder" ]; then
    echo "$folder is there: nothing was made" >&2
    exit 0
fi
new=$folder.new
rm -rf "$new"
mkdir -p "$new"

random() { od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { cat >"$new/$1"; }
superuser=$(random) airflow=$(random) catalog=$(random) backup=$(random) app=$(random) readonly=$(random)
redis=$(random) admin=$(random) jwt=$(random) api=$(random) passphrase=$(random) access=$(random) secret=$(random)
fernet=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')
database="postgresql+psycopg://airflow:$airflow@metadata/airflow?sslmode=verify-full&sslrootcert=/etc/pgbackup/server.crt"

# The certificate of both servers; verify-full holds them to it.
said=$(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=streamflix" \
    -addext "subjectAltName=DNS:streamflix,DNS:metadata" -keyout "$new/server.key" -out "$new/server.crt" 2>&1) || {
    echo "cannot make the servers' certificate: $said" >&2
    exit 1
}

# The key pair of the backups. KEEP A COPY of backup.sec.asc and backup.passphrase away from this machine.
echo "$passphrase" | write backup.passphrase
home=$(mktemp -d /tmp/gpg.XXXXXXXX)
trap 'gpgconf --homedir "$home" --kill all; rm -rf "$home"' EXIT
gpg="gpg --homedir $home --batch --quiet --pinentry-mode loopback --passphrase-file $new/backup.passphrase"
$gpg --quick-generate-key "StreamFlix backups <backup@streamflix.example>" ed25519 sign never
$gpg --quick-add-key "$($gpg --with-colons --list-keys | awk -F: '$1 == "fpr" { print $10; exit }')" cv25519 encr never
$gpg --armor --export >"$new/backup.pub.asc"
$gpg --armor --export-secret-keys >"$new/backup.sec.asc"

echo "$superuser" | write postgres.password
write metadata.sql <<EOF
CREATE ROLE airflow LOGIN PASSWORD '$airflow';
CREATE DATABASE airflow OWNER airflow;
CREATE ROLE pgbackup_catalog LOGIN PASSWORD '$catalog';
CREATE DATABASE pgbackup_catalog OWNER pgbackup_catalog;
EOF
write streamflix.sql <<EOF
ALTER ROLE backup PASSWORD '$backup';
ALTER ROLE app PASSWORD '$app';
ALTER ROLE readonly PASSWORD '$readonly';
EOF
write pgpass <<EOF
streamflix:*:*:backup:$backup
streamflix:*:*:postgres:$superuser
metadata:*:*:pgbackup_catalog:$catalog
EOF
write redis.conf <<EOF
requirepass $redis
dir /data
appendonly yes
EOF
write airflow.cfg <<EOF
[core]
fernet_key = $fernet
[database]
sql_alchemy_conn = $database
[api]
secret_key = $api
[api_auth]
jwt_secret = $jwt
[celery]
broker_url = redis://:$redis@redis:6379/0
result_backend = db+$database
EOF
printf '{"admin": "%s"}\n' "$admin" | write users.json
write s3.json <<EOF
{"identities": [{"name": "backup", "credentials": [{"accessKey": "$access", "secretKey": "$secret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
EOF

for region in eu:eu-central-1 us:us-east-1 ap:ap-south-1; do
    cat <<EOF
[profile backups-${region%%:*}]
aws_access_key_id = $access
aws_secret_access_key = $secret
region = ${region#*:}
endpoint_url = http://region-${region%%:*}:8333
EOF
done | write aws.config

tls='"extra": {"sslmode": "verify-full", "sslrootcert": "/etc/pgbackup/server.crt"}'
airflow_connections() {
    cat <<EOF
  "pgbackup_catalog": {"conn_type": "postgres", "host": "metadata", "schema": "pgbackup_catalog",
    "login": "pgbackup_catalog", "password": "$catalog", $tls},
  "pgbackup_smtp": {"conn_type": "smtp", "host": "mail", "port": 2525,
    "extra": {"disable_ssl": true, "disable_tls": true, "from_email": "backup@streamflix.example"}}
EOF
}
region() {
    printf ',\n  "backups_%s": {"conn_type": "aws", "login": "%s", "password": "%s",\n    "extra": {"region_name": "%s", "endpoint_url": "%s"}}' \
        "$1" "$access" "$secret" "$2" "http://region-$1:8333"
}
{ echo "{" && airflow_connections && echo "}"; } | write connections-airflow.json
{
    echo "{" && airflow_connections
    for role in streamflix:backup:$backup streamflix_recovery:postgres:$superuser; do
        rest=${role#*:}
        printf ',\n  "%s": {"conn_type": "postgres", "host": "streamflix", "schema": "streamflix",\n    "login": "%s", "password": "%s", %s}' \
            "${role%%:*}" "${rest%%:*}" "${rest#*:}" "$tls"
    done
    region eu eu-central-1 && region us us-east-1 && region ap ap-south-1
    echo && echo "}"
} | write connections.json

chmod 644 "$new/server.crt" "$new/backup.pub.asc"
chmod 711 "$new"
if [ "$(id -u)" -eq 0 ]; then
    chown 999:999 "$new"/*
else
    echo "not root: chown -R 999:999 $folder before the containers start" >&2
fi
mv "$new" "$folder"
echo "made $folder; the UI's user is admin, with the password in $folder/users.json" >&2

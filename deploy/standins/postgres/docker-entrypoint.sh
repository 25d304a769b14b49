#!/usr/bin/env bash
# Makes the database where there is none yet, as POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB say, and becomes the
# server. Started as root it goes on as postgres.
set -euo pipefail

die() {
    echo "error: $*" >&2
    exit 1
}

# setting NAME DEFAULT: of the environment, or of the file that NAME_FILE is the path of.
setting() {
    local file=$1_FILE
    if [[ -n ${!file:-} ]]; then
        [[ -z ${!1:-} ]] || die "$1 and $file are both set"
        printf -v "$1" %s "$(<"${!file}")"
    else
        printf -v "$1" %s "${!1:-$2}"
    fi
}

# A fresh volume is root's, and so is a fresh tmpfs for the socket.
step_down() {
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    chmod 3777 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres:postgres {} +
    export HOME=/var/lib/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
}

init() {
    local arguments
    setting POSTGRES_USER postgres
    setting POSTGRES_DB "$POSTGRES_USER"
    setting POSTGRES_PASSWORD ""
    setting POSTGRES_INITDB_ARGS ""
    POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    [[ -n $POSTGRES_PASSWORD || $POSTGRES_HOST_AUTH_METHOD == trust ]] ||
        die "a new database needs POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE (or POSTGRES_HOST_AUTH_METHOD=trust: no password)"
    read -ra arguments <<<"$POSTGRES_INITDB_ARGS"
    arguments+=(--username="$POSTGRES_USER" --encoding=UTF8 --set "listen_addresses=*" --auth-local=trust
        --auth-host="$POSTGRES_HOST_AUTH_METHOD")
    if [[ -n $POSTGRES_PASSWORD ]]; then
        initdb "${arguments[@]}" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
    else
        initdb "${arguments[@]}"
    fi
    printf 'host all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
    # By a server of one session, which no client can reach.
    [[ $POSTGRES_DB == postgres ]] ||
        postgres --single -c exit_on_error=true postgres <<<"CREATE DATABASE \"${POSTGRES_DB//\"/\"\"}\"" >/dev/null
}

[[ ${1:-} != -* ]] || set -- postgres "$@"
if [[ ${1:-} == postgres ]]; then
    [[ $(id -u) != 0 ]] || step_down "$@"
    [[ -s $PGDATA/PG_VERSION ]] || init
    unset POSTGRES_PASSWORD
fi
exec "$@"

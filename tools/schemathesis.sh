#!/usr/bin/env bash
# Has schemathesis try every operation of the OpenAPI documents, through a gateway: no answer may be a 5xx, and none may be one
# that the documents do not know.
#   EXAMPLES=250              for each operation, beside its examples and bounds (fewer where there is less to vary)
#   SEED=                     to repeat a run
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

VERSION=4.32.5
VENV=$PWD/target/conformance/schemathesis
BIN=${CARGO_TARGET_DIR:-target}/debug
WORK=$(mktemp -d)
PIDS=()
trap cleanup EXIT

cleanup() {
    local pid
    for pid in "${PIDS[@]}"; do end "$pid" TERM 15; done
    rm -rf "$WORK"
}

install_schemathesis() {
    [[ ! -x $VENV/bin/schemathesis ]] || return 0
    say "installing schemathesis"
    python3 -m venv "$VENV" 2>/dev/null || { can_apt && apt_install python3-venv && python3 -m venv "$VENV"; } \
        || die "python3 with venv is missing (for schemathesis)"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$VERSION"
}

# start NAME OPTION...: a program of the workspace in the background; its log is $WORK/NAME.log.
start() {
    local name=$1
    shift
    "$BIN/$name" "$@" >"$WORK/$name.log" 2>&1 &
    PIDS+=($!)
}

start_services() {
    local users grpc keys data data_admin replay admin
    users=$(free_port) grpc=$(free_port) keys=$(free_port) data=$(free_port) data_admin=$(free_port) replay=$(free_port)
    admin=$(free_port) PORT=$(free_port)
    cargo build --quiet -p gateway -p user_manager -p data_collector -p opensky_replay
    "$BIN/gateway" gen-cert --out "$WORK" >/dev/null
    start opensky_replay --listen "127.0.0.1:$replay"
    start user_manager --listen "127.0.0.1:$users" --grpc-listen "127.0.0.1:$grpc" --admin-listen "127.0.0.1:$keys" \
        --database-url "sqlite:$WORK/user.db" --bus-url "log:$WORK/user-bus.db"
    start data_collector --listen "127.0.0.1:$data" --admin-listen "127.0.0.1:$data_admin" \
        --database-url "sqlite:$WORK/data.db" --bus-url "log:$WORK/data-bus.db" --max-interests 100000 \
        --key-feed-url "http://127.0.0.1:$keys/keys" --user-manager-grpc-url "http://127.0.0.1:$grpc" \
        --opensky-api-url "http://127.0.0.1:$replay/api" --opensky-token-url "http://127.0.0.1:$replay/token" \
        --opensky-client-id any --opensky-client-secret any --collect-lag 0s --collect-settle 0s
    start gateway serve --listen "127.0.0.1:$PORT" --admin-listen "127.0.0.1:$admin" --rate-limit off --rate-limit-login off \
        --max-connections-per-client off --tls-cert "$WORK/cert.pem" --tls-key "$WORK/key.pem" \
        --user-manager-url "http://127.0.0.1:$users" --user-manager-admin-port "$keys" \
        --data-collector-url "http://127.0.0.1:$data" --data-collector-admin-port "$data_admin"
    wait_until 60 serves user_manager && wait_until 60 serves data_collector || die "the services do not start
$(tail -n 3 "$WORK"/*.log)"
}

serves() { curl -ksf -o /dev/null "https://127.0.0.1:$PORT/$1/openapi.json"; }

# try SERVICE
try() {
    say "$1"
    VEDETTA=https://127.0.0.1:$PORT SCHEMATHESIS_HOOKS=$PWD/tools/schemathesis_hooks.py PYTHONWARNINGS=ignore \
        "$VENV/bin/schemathesis" run "docs/openapi/$1.yaml" --url "https://127.0.0.1:$PORT/$1" --tls-verify false \
        --phases examples,coverage,fuzzing --mode all --max-examples "${EXAMPLES:-250}" ${SEED:+--seed "$SEED"} \
        --checks "$CHECKS" --continue-on-failure --no-color
}

# Not `positive_data_acceptance`: some bounds cannot be said in a schema (an address, bytes of a password).
CHECKS=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance
FAILED=0
have curl || { can_apt && apt_install curl; } || die "curl is missing"
install_schemathesis
start_services
try user_manager || FAILED=1
try data_collector || FAILED=1
((FAILED == 0)) || die "an answer was none of those that are documented"

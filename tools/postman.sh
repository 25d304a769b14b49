#!/usr/bin/env bash
# Runs the Postman collections by newman.
#
#   tools/postman.sh https://localhost:8443   against what runs there
#   tools/postman.sh                          against a standalone of its own, on recorded flights, in a temporary folder
#
# STANDALONE=FILE is that program (${CARGO_TARGET_DIR:-target}/debug/standalone).
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

STANDALONE=${STANDALONE:-${CARGO_TARGET_DIR:-target}/debug/standalone}
NEWMAN=postman/node_modules/.bin/newman
WORK=$(mktemp -d)
PID=
trap cleanup EXIT

cleanup() {
    [[ -z $PID ]] || end "$PID" TERM 15
    rm -rf "$WORK"
}

# As package-lock.json has it; what npm installed names the lock that it came from by its time.
install_newman() {
    { have node && have npm; } || die "node and npm are missing (Debian, Ubuntu: sudo apt-get install -y nodejs npm)"
    [[ ! -x $NEWMAN || postman/package-lock.json -nt postman/node_modules/.package-lock.json ]] || return 0
    say "installing newman"
    bounded 10m npm ci --prefix postman --ignore-scripts --no-audit --no-fund --loglevel=error >&2
}

# Nothing of this environment, so that it is a replay with mails in a folder whatever is set here.
start_standalone() {
    local port
    have curl || die "curl is missing"
    [[ -x $STANDALONE ]] || die "$STANDALONE is missing: cargo build -p standalone"
    port=$(free_port)
    BASE_URL=https://127.0.0.1:$port
    env -i PATH="$PATH" "$STANDALONE" --data-dir "$WORK/data" --listen "127.0.0.1:$port" --admin-port 0 \
        --replay-listen 127.0.0.1:0 >"$WORK/log" 2>&1 &
    PID=$!
    wait_until 60 serves || die "the standalone does not start
$(tail -n 20 "$WORK/log")"
}

# The gateway asks for tokens, and not for patience, as soon as it has the keys.
serves() {
    alive "$PID" || die "the standalone has ended
$(tail -n 20 "$WORK/log")"
    asks_for_token user_manager/me && asks_for_token data_collector/status
}

asks_for_token() { [[ $(curl -ks -m 5 -o /dev/null -w '%{http_code}' "$BASE_URL/$1") == 401 ]]; }

# run COLLECTION: what fails is shown, and the summary.
run() {
    bounded 5m "$NEWMAN" run "postman/$1.postman_collection.json" --env-var "base_url=$BASE_URL" --insecure \
        --timeout-request 60000 --timeout-script 10000 --reporters cli \
        --reporter-cli-no-banner --reporter-cli-no-success-assertions
}

install_newman
node postman/check.mjs
BASE_URL=${1:-}
BASE_URL=${BASE_URL%/}
[[ -n $BASE_URL ]] || start_standalone
FAILED=0
run UserManager || FAILED=1
run DataCollector || FAILED=1
((FAILED == 0)) || die "not every answer was what the collections expect"

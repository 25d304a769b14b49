# shellcheck shell=bash
# Starting a release build of the standalone and speaking to it as a person with curl would. Sourced, after lib.sh.

PASSWORD=correct-horse-battery-staple
ADMIN_PORTS=(9900 9901 9902 9903 9904)

# build_standalone: as `make run` does.
build_standalone() {
    local port
    have curl || die "curl is needed for this"
    for port in "${ADMIN_PORTS[@]}"; do
        ! answers "$port" || die "port $port is taken; is a standalone running?"
    done
    cargo build --release -p standalone >&2
}

# start_standalone DATA_DIR PORT LOG: sets PID. Without OpenSky's credentials and a mail server it takes the replay and a folder.
start_standalone() {
    env -u OPENSKY_CLIENT_ID -u OPENSKY_CLIENT_SECRET -u MAIL_URL -u GMAIL_USER -u GMAIL_APP_PASSWORD \
        target/release/standalone --data-dir "$1" --listen "127.0.0.1:$2" >>"$3" 2>&1 </dev/null &
    PID=$!
    BASE=https://127.0.0.1:$2
}

# status_of URL: the HTTP status, 000 when nobody answers.
status_of() { curl -sk -o /dev/null -m 5 -w '%{http_code}' "$1" || true; }

# The gateway reaches a service: any answer that is not the gateway's own 5xx.
serves() { [[ $(status_of "$BASE/user_manager/login") == [234]* ]]; }

ready() {
    local port
    for port in "${ADMIN_PORTS[@]}"; do
        [[ $(status_of "http://127.0.0.1:$port/readyz") == 200 ]] || return 1
    done
}

# up_or_dead: a standalone that ended will never be ready, so this too ends the wait; look with `gone`.
up_or_dead() { { serves && ready; } || gone "$PID"; }

# api METHOD PATH TOKEN [BODY]: the answer's body; fails on 4xx and 5xx.
api() {
    local body=()
    [[ -z ${4:-} ]] || body=(-H 'Content-Type: application/json' -d "$4")
    curl -skf -m 10 -X "$1" "$BASE$2" -H "Authorization: Bearer $3" "${body[@]}"
}

# register EMAIL: fails when the address is taken.
register() {
    curl -skf -m 10 -o /dev/null "$BASE/user_manager/register" -H 'Content-Type: application/json' \
        -d "{\"email\":\"$1\",\"name\":\"Test\",\"surname\":\"User\",\"password\":\"$PASSWORD\"}"
}

# login EMAIL: prints the token.
login() {
    api POST /user_manager/login "" "{\"email\":\"$1\",\"password\":\"$PASSWORD\"}" |
        sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p'
}

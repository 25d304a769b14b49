#!/usr/bin/env bash
# Faults and load for the gateway, on this machine's loopback: one line of figures for each scenario, exit code 1 when
# one missed. ONLY="slow drain" picks scenarios. GATEWAY=path takes a binary that is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

SCENARIOS=(slow overload certificates drain takeover upstreams memory nginx)
ONLY=${ONLY:-${SCENARIOS[*]}}
SLOW_CLIENTS=${SLOW_CLIENTS:-5000}
ADDRESSES=${ADDRESSES:-1000000}
BINARIES=${CARGO_TARGET_DIR:-target}/release
GATEWAY=${GATEWAY:-$BINARIES/gateway}
WORK=$(mktemp -d)
trap 'finish $?' EXIT

finish() {
    if (($1 == 0)); then rm -rf "$WORK"; else say "what it left: $WORK"; fi
}

# --- What the scenarios are told in -------------------------------------------------------------------------------

# Of the scenario that runs, by name.
declare -A PIDS=()

stop_all() {
    local name
    for name in "${!PIDS[@]}"; do end "${PIDS[$name]}" KILL 5; done
} 2>/dev/null # bash's own "Killed"

# start NAME COMMAND...: in the background; its output goes to NAME.log.
start() {
    local name=$1
    shift
    "$@" >"$HERE/$name.log" 2>&1 </dev/null &
    PIDS[$name]=$!
}

# stop NAME SIGNAL: and waits; its exit code.
stop() {
    local status=0
    kill "-$2" "${PIDS[$1]}"
    wait "${PIDS[$1]}" 2>/dev/null || status=$?
    unset "PIDS[$1]"
    return "$status"
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# upstream NAME HOST [OPTION...]: a service that both routes lead to.
upstream() {
    local name=$1 host=$2
    shift 2
    start "$name" "$BINARIES/upstream" --listen "$host:$SERVICE" --admin-listen "$host:$SERVICE_ADMIN" "$@"
    wait_until 5 answers_at "$host" "$SERVICE" || die "$name did not start: $(tail -n 3 "$HERE/$name.log")"
}

answers_at() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# configure TOP_LEVEL_KEYS LIMITS UPSTREAM_KEYS [HOST...]: one service on each host. What a scenario does not say is as wide as can be.
configure() {
    local hosts=("${@:4}")
    ((${#hosts[@]} > 0)) || hosts=(127.0.0.1)
    [[ -e $HERE/cert.pem ]] || "$GATEWAY" gen-cert --out "$HERE" >/dev/null
    cat >"$HERE/gateway.toml" <<END
listen = "127.0.0.1:$PORT"
admin_listen = "127.0.0.1:$ADMIN"
access_log = false
$(unless_given 'auth = "off"' "$1")
$1

[[certificates]]
cert = "$HERE/cert.pem"
key = "$HERE/key.pem"

[limits]
connections_per_client = "off"
$(unless_given 'rate = "off"' "$2")
rate_login = "off"
$2

[upstreams.user_manager]
addresses = [$(printf "\"http://%s:$SERVICE\", " "${hosts[@]}")]
admin_port = $SERVICE_ADMIN
$3

[upstreams.data_collector]
addresses = ["http://127.0.0.1:$SERVICE"]
admin_port = $SERVICE_ADMIN
END
}

# unless_given LINE LINES: the line, unless its key is among the lines.
unless_given() { grep -q "^${1%%=*}=" <<<"$2" || echo "$1"; }

# gateway [NAME [OPTION...]]
gateway() {
    local name=${1:-gateway}
    start "$name" "$GATEWAY" serve --config "$HERE/gateway.toml" "${@:2}"
}

ready() { [[ $(curl -s -o /dev/null -m 2 -w '%{http_code}' "http://127.0.0.1:$ADMIN/readyz") == 200 ]]; }
ready_or_gone() { ready || gone "${PIDS[$1]}"; }

# serving [NAME]: waits for it.
serving() {
    local name=${1:-gateway}
    if ! wait_until 10 ready_or_gone "$name" || gone "${PIDS[$name]}"; then
        die "the gateway did not start: $(tail -n 3 "$HERE/$name.log")"
    fi
}

# metric PATTERN: the sum of all series of the admin port whose line matches.
metric() {
    curl -s -m 5 "http://127.0.0.1:$ADMIN/metrics" | awk -v want="$1" '!/^#/ && $0 ~ want { n += $NF } END { print n + 0 }'
}

# kib NAME FIELD: VmRSS or VmHWM (the most it ever was), KiB.
kib() { awk -v field="$2:" '$1 == field { print $2 }' "/proc/${PIDS[$1]}/status"; }

# load NAME OPTION...: the load program in the background; its figures go to NAME.json.
load() {
    local name=$1
    shift
    "$BINARIES/load" --json "$@" >"$HERE/$name.json" 2>"$HERE/$name.err" </dev/null &
    PIDS[$name]=$!
}

# loaded NAME...: waits for those.
loaded() {
    local name
    for name in "$@"; do
        # Its exit code is 1 when nothing was answered 2xx; whether that is wrong is the scenario's business.
        wait "${PIDS[$name]}" || (($? == 1)) || die "load $name: $(tail -n 3 "$HERE/$name.err")"
        unset "PIDS[$name]"
    done
}

# value NAME EXPRESSION (jq): of the figures of a load; what is not there is 0.
value() { jq -rs "add | ($2) // 0" "$HERE/$1.json"; }

# total EXPRESSION NAME...: the sum.
total() {
    local expression=$1 name
    shift
    for name in "$@"; do value "$name" "$expression"; done | awk '{ n += $1 } END { print n + 0 }'
}

# ms NAME: the p99 of what was answered 2xx.
ms() { value "$1" ".ok_p99_us / 1000"; }

# is NAME EXPRESSION (jq): must be true, else the scenario ends here with the figures of that load.
is() { [[ $(value "$1" "$2") == true ]] || die "$1 is not $2: $(cat "$HERE/$1.json")"; }

# holds EXPRESSION: of numbers with fractions, as awk has it.
holds() { awk "BEGIN { exit !($1) }"; }

# --- The scenarios ------------------------------------------------------------------------------------------------

# Thousands of slow clients at once do not double a normal client's p99.
slow() {
    local what alone with size figures=""
    configure "" "connections = $((SLOW_CLIENTS * 2))" "max_in_flight = $((SLOW_CLIENTS * 2))"
    upstream service 127.0.0.1
    gateway
    serving
    normal_client alone
    alone=$(median_ms alone)
    for what in head body read; do
        load "slow-$what" --url "$URL/user_manager/bytes/1000000" --slow "$what" --method "$(slow_method "$what")" \
            --connections "$SLOW_CLIENTS" --duration 10
        wait_until 90 all_open "slow-$what" || die "slow $what: $(cat "$HERE/slow-$what.json")"
        normal_client "$what"
        size=$(($(kib gateway VmRSS) / 1024))
        loaded "slow-$what"
        # The gateway ends those who take too long for a head, and others come.
        is "slow-$what" ".least_open >= 0.8 * $SLOW_CLIENTS"
        with=$(median_ms "$what")
        figures+="; slow $what: $with ms, RSS $size MiB"
        holds "$with <= 2 * $alone" || die "p99 of a normal client, alone: $alone ms$figures ($(lateness "$what"))"
    done
    echo "p99 of a normal client, alone: $alone ms$figures; $SLOW_CLIENTS slow ones each time"
}

# Three times 3 s: a machine that is busy with something else for a moment is not what is measured.
WINDOWS=(1 2 3)

normal_client() {
    local window
    for window in "${WINDOWS[@]}"; do
        load "$1-$window" --url "$URL/data_collector/x" --connections 8 --rate 200 --duration 3
        loaded "$1-$window"
        is "$1-$window" ".requests == .ok"
    done
}

median_ms() {
    local window
    for window in "${WINDOWS[@]}"; do ms "$1-$window"; done | sort -n | sed -n 2p
}

# How late the load itself was: on a machine that is busy with something else, the figures mean nothing.
lateness() {
    local window
    echo "the load itself was late by (p99, us): $(for window in "${WINDOWS[@]}"; do value "$1-$window" .late_p99_us; done | xargs)"
}

slow_method() { if [[ $1 == body ]]; then echo POST; else echo GET; fi; }
all_open() { [[ -s $HERE/$1.json ]] && holds "$(value "$1" .open) == $SLOW_CLIENTS"; }

# Twice what the service can do: who is admitted is served as fast as ever, the others hear so at once.
overload() {
    local rate capacity=0 at before most to=(--url "$URL/user_manager/x" --connections 200)
    # It can do 400 a second. Half as many again as it works on may wait for it, so that nobody waits much longer.
    configure "" "" "max_in_flight = 30"
    upstream service 127.0.0.1 --delay 50ms --concurrency 20
    gateway
    serving
    for rate in 200 240 280 320 360; do
        load "at-$rate" "${to[@]}" --rate "$rate" --duration 4
        loaded "at-$rate"
        in_time "at-$rate" || break
        capacity=$rate
    done
    ((capacity > 0)) || die "not even 200 requests/s: $(cat "$HERE/at-200.json")"
    at=$(ms "at-$capacity")
    before=$(kib gateway VmRSS)
    load twice "${to[@]}" --rate $((2 * capacity)) --duration 30
    loaded twice
    most=$(kib gateway VmHWM)
    is twice '.ok + .status["503"] == .requests and .status["503"] > 0'
    is twice '.status["503"] == .retry_after'
    is twice ".ok >= 0.8 * 30 * $capacity"
    holds "$(ms twice) <= 2 * $at" || die "p99 of those admitted $(ms twice) ms, at capacity $at ms"
    ((most - before < 32 * 1024)) || die "RSS grew from $before to $most KiB"
    sleep 5
    load after "${to[@]}" --rate "$capacity" --duration 4
    loaded after
    in_time after || die "5 s later: $(cat "$HERE/after.json")"
    echo "capacity $capacity/s with p99 $at ms; at $((2 * capacity))/s for 30 s: $(value twice .ok) admitted with p99" \
        "$(ms twice) ms, $(value twice '.status["503"]') refused with 503 and Retry-After, RSS $before to $most KiB;" \
        "5 s later p99 $(ms after) ms"
}

# in_time NAME: all but 1 % were admitted and had their answer within twice the time of service.
in_time() { [[ $(value "$1" ".ok >= 0.99 * .requests and .ok_p99_us <= 100000") == true ]]; }

# crowd OPTION...: the three kinds of clients at once, in the background.
crowd() {
    load kept --url "$URL/user_manager/x" --connections 16 --rate 300 "$@"
    load fresh --url "$URL/user_manager/x" --connections 8 --rate 50 --new-connection-per-request "$@"
    load h2 --url "$URL/user_manager/x" --connections 4 --streams 4 --rate 300 --http2 "$@"
}

CROWD=(kept fresh h2)

# New certificates under load; a bad one is refused and the old one serves on.
certificates() {
    local name round began slowest=0 took
    configure "" "" ""
    upstream service 127.0.0.1
    gateway
    serving
    crowd --duration 20
    for round in 1 2 3 4; do
        new_certificate "$HERE/new"
        began=$(now_ms)
        cp "$HERE/new/cert.pem" "$HERE/new/key.pem" "$HERE"
        # Odd rounds tell it; in even ones it has to see for itself.
        ((round % 2 == 0)) || kill -HUP "${PIDS[gateway]}"
        wait_until 8 presents "$HERE/new/cert.pem" || die "round $round: the new certificate is not presented"
        took=$(($(now_ms) - began))
        ((took <= slowest)) || slowest=$took
    done
    bad_certificates
    loaded "${CROWD[@]}"
    for name in "${CROWD[@]}"; do is "$name" ".requests == .ok"; done
    echo "4 new certificates, the slowest presented after $slowest ms; 2 bad ones refused;" \
        "$(total .requests "${CROWD[@]}") requests, none failed"
}

bad_certificates() {
    echo "not a certificate" >"$HERE/cert.pem"
    refused_and_unchanged "a broken certificate"
    new_certificate "$HERE/other"
    cp "$HERE/other/cert.pem" "$HERE"
    refused_and_unchanged "a certificate with another's key"
}

# refused_and_unchanged WHAT
refused_and_unchanged() {
    local before
    before=$(refusals)
    kill -HUP "${PIDS[gateway]}"
    wait_until 5 more_refusals "$before" || die "$1 is not refused"
    presents "$HERE/new/cert.pem" || die "after $1 the old one is not presented"
}

refusals() { metric 'certificate_reloads_total.*"refused"'; }
more_refusals() { (($(refusals) > $1)); }
new_certificate() { "$GATEWAY" gen-cert --force --out "$1" >/dev/null; }

# presents FILE: a handshake gets the certificate of FILE.
presents() {
    local got
    got=$(openssl s_client -connect "127.0.0.1:$PORT" -servername localhost </dev/null 2>/dev/null |
        openssl x509 -noout -fingerprint -sha256 2>/dev/null) || return 1
    [[ $got == $(openssl x509 -noout -fingerprint -sha256 -in "$1") ]]
}

# A stop under load: whoever was accepted is answered, and the process is gone within its grace.
drain() {
    local round began took slowest=0 requests=0 late=0
    configure "" "" ""
    upstream service 127.0.0.1 --delay 30ms
    for round in 1 2 3 4 5; do
        gateway
        serving
        crowd --duration 20 --until-refused
        sleep "2.$((RANDOM % 10))"
        began=$(now_ms)
        stop gateway TERM || die "round $round: exit code $? after SIGTERM"
        took=$(($(now_ms) - began))
        loaded "${CROWD[@]}"
        nothing_lost
        for name in "${CROWD[@]}"; do is "$name" ".errors.connect > 0"; done # it ended because of the stop
        ((took <= 8000)) || die "round $round: it took $took ms"
        ((took <= slowest)) || slowest=$took
        requests=$((requests + $(total .ok "${CROWD[@]}")))
        late=$((late + $(total .errors.tls "${CROWD[@]}")))
    done
    echo "5 stops under load, the slowest $slowest ms, exit code 0; $requests requests, none lost; $late connections" \
        "ended before their handshake"
}

# Every request that was sent has its answer. Over HTTP/2, "closed" is a goodbye that says that it was not begun with;
# over HTTP/1.1 it is a kept connection that was closed without notice.
nothing_lost() {
    is kept ".ok > 0 and .ok + .errors.connect + .errors.tls == .requests"
    is fresh ".ok > 0 and .ok + .errors.connect + .errors.tls == .requests"
    is h2 ".ok > 0 and .ok + .errors.connect + .errors.tls + .errors.closed == .requests"
}

# A new process takes the listeners over: nobody notices.
takeover() {
    local round old=gateway new upgrade=(--upgrade-socket "$HERE/upgrade.sock")
    configure "" "" ""
    upstream service 127.0.0.1 --delay 10ms
    gateway "$old" "${upgrade[@]}"
    serving "$old"
    crowd --duration 20
    for round in 1 2 3; do
        sleep 3
        new=gateway-$round
        gateway "$new" --upgrade "${upgrade[@]}"
        wait_until 10 grep -q "waiting for the running gateway" "$HERE/$new.log" || die "$new: $(cat "$HERE/$new.log")"
        stop "$old" QUIT || die "round $round: exit code $? after SIGQUIT"
        wait_until 5 ready || die "round $round: the new process is not ready: $(tail -n 3 "$HERE/$new.log")"
        old=$new
    done
    loaded "${CROWD[@]}"
    nothing_lost
    for name in "${CROWD[@]}"; do is "$name" ".errors.connect + .errors.tls == 0"; done
    echo "3 new processes took over; $(total .ok "${CROWD[@]}") requests, none lost, no connection refused;" \
        "$(value h2 .errors.closed) HTTP/2 requests sent again after a goodbye"
}

# One of two addresses is killed and comes back: no GET fails. Both: 503, and recovery by itself.
upstreams() {
    local began back ejections
    configure "" "" "" 127.0.0.1 127.0.0.2
    upstream one 127.0.0.1 --delay 5ms
    upstream two 127.0.0.2 --delay 5ms
    gateway
    serving
    load survivors --url "$URL/user_manager/x" --connections 32 --rate 500 --duration 15
    sleep 3
    stop two KILL || true
    wait_until 5 healthy 1 || die "the one that is gone is still used"
    ejections=$(metric upstream_ejections_total)
    sleep 2
    upstream two 127.0.0.2 --delay 5ms
    began=$(now_ms)
    wait_until 10 has_requests 127.0.0.2 || die "the one that came back gets no requests"
    back=$(($(now_ms) - began))
    loaded survivors
    is survivors ".requests == .ok"
    stop one KILL || true
    stop two KILL || true
    wait_until 15 answers_with "503 application/problem+json" || die "with all gone: $(answer)"
    upstream one 127.0.0.1
    upstream two 127.0.0.2
    began=$(now_ms)
    wait_until 10 answers_with 200 || die "it did not recover: $(answer)"
    echo "one of two killed and back: $(value survivors .requests) GETs, none failed, p99 $(ms survivors) ms," \
        "$ejections ejections, in use $back ms after its return; both: 503, served $(($(now_ms) - began)) ms after theirs"
}

healthy() { [[ $(metric 'upstream_healthy.*user_manager') == "$1" ]]; }
has_requests() { (($(curl -s -m 2 "http://$1:$SERVICE_ADMIN/requests") > 20)); }

# answer: status and content type.
answer() { curl -sk -o /dev/null -m 5 -w '%{http_code} %{content_type}' "$URL/user_manager/x" || true; }
answers_with() { [[ $(answer) == "$1"* ]]; }

# A million client addresses leave the rate limiter as large as it was.
memory() {
    local before after
    # A 401 needs no service, and comes after the rate.
    configure $'auth = "required"\ntrusted_proxies = ["127.0.0.1/32"]' 'rate = "50/s burst 200"' ""
    upstream service 127.0.0.1
    gateway
    serving
    # As many as are remembered at once, and the connections' buffers, belong to the start.
    flood first 100000
    before=$(kib gateway VmRSS)
    flood all "$ADDRESSES"
    after=$(kib gateway VmRSS)
    # The limiter was at work: one address alone is stopped.
    load one --url "$URL/user_manager/x" --connections 1 --forwarded-for 1 --requests 1000 --duration 20
    loaded one
    is one '.status["429"] > 0'
    ((after - before < 50 * 1024)) || die "RSS grew from $before to $after KiB"
    echo "$ADDRESSES addresses: RSS $before to $after KiB, at most $(kib gateway VmHWM); of 1000 requests of one" \
        "address $(value one '.status["429"]') were refused"
}

# flood NAME COUNT: one request from each of so many addresses.
flood() {
    load "$1" --url "$URL/user_manager/x" --connections 32 --forwarded-for "$2" --requests "$2" --duration 240
    loaded "$1"
    is "$1" ".requests == $2 and .status[\"401\"] == $2"
}

# The same answer as nginx for many random targets; `gateway/tests/nginx.rs` compares.
nginx() {
    [[ -n $(type -P nginx) ]] || die "nginx is not installed"
    NGINX_TARGETS=100000 cargo test -p gateway --test nginx >"$HERE/nginx.log" 2>&1 || die "$(tail -n 20 "$HERE/nginx.log")"
    grep '^test result' "$HERE/nginx.log"
}

# --- The run ------------------------------------------------------------------------------------------------------

# in_its_own_place SCENARIO
in_its_own_place() {
    trap stop_all EXIT
    HERE=$WORK/$1
    mkdir "$HERE"
    PORT=$(free_port)
    ADMIN=$(free_port)
    SERVICE=$(free_port)
    SERVICE_ADMIN=$(free_port)
    URL=https://127.0.0.1:$PORT
    "$1" >"$HERE/figures"
    printf '%-12s %s (%d s)\n' "$1" "$(cat "$HERE/figures")" $((SECONDS - began))
}

for tool in curl jq openssl; do have "$tool" || die "$tool is needed for this"; done
ulimit -n "$(ulimit -Hn)"
[[ -x $GATEWAY && $GATEWAY != "$BINARIES/gateway" ]] || cargo build --release -p gateway >&2
cargo build --release -p bench >&2
FAILED=()
for scenario in $ONLY; do
    [[ " ${SCENARIOS[*]} " == *" $scenario "* ]] || die "there is no scenario $scenario, only ${SCENARIOS[*]}"
    began=$SECONDS
    # Not as a condition: bash would then go on after a command that fails.
    set +e
    (
        set -e
        in_its_own_place "$scenario"
    )
    status=$?
    set -e
    ((status == 0)) || FAILED+=("$scenario")
done
((${#FAILED[@]} == 0)) || die "missed: ${FAILED[*]} ($SECONDS s)"
echo "all held: $ONLY ($SECONDS s)"

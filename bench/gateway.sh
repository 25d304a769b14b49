#!/usr/bin/env bash
# The gateway against nginx: same machine, certificate, upstream and load, in turn. Prints a table of medians in
# Markdown; exit code 1 when a target is missed or a request was not answered.
# usage: bench/gateway.sh                 (Linux, about ten minutes)
#   PAIRS=5                   runs of each side
#   SECONDS_PER_RUN=5
#   ONLY="cpu rate"           some of: cpu rate handshakes connections h2 mib idle assignment
#   CONNECTIONS=64            of the client, where it is not about their number
#   RATE=                     requests a second of `rate`; by default 40 % of what the slower side can do
#   IDLE=10000                connections of `idle`
#   GATEWAY_FLAGS=            further flags of the gateway
#   GATEWAY=, LOAD=, NGINX=   binaries; by default release builds of this tree, and nginx from the path
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh
source bench/gateway/lib.sh

PAIRS=${PAIRS:-5}
SECONDS_PER_RUN=${SECONDS_PER_RUN:-5}
ONLY=${ONLY:-cpu rate handshakes connections h2 mib idle assignment}
CONNECTIONS=${CONNECTIONS:-64}
RATE=${RATE:-}
IDLE=${IDLE:-10000}
WORK=$(mktemp -d)
ROWS=()     # of the table
COMMANDS=() # what was run, for whoever wants to run it by hand
NOTES=()
MISSED=0
trap 'stop_all; rm -rf "$WORK"' EXIT

note() { NOTES+=("$1"); }

fail() {
    MISSED=1
    note "**$1**"
}

# ---- runs; the results of one are lines of JSON in $WORK/BENCH.SIDE

# checked BENCH SIDE REPORT: a figure of requests that failed is worth nothing.
checked() {
    echo "$3" >>"$WORK/$1.$2"
    if jq -e '.requests == .ok and .requests > 0 and .resumed_handshakes == 0' <<<"$3" >/dev/null; then return; fi
    fail "$1, $2: not every request was answered: $(jq -c '{requests, ok, errors, status}' <<<"$3")"
}

# pairs BENCH "SIDE..." PATH OPTIONS...: every side once, and again, PAIRS times.
pairs() {
    local bench=$1 sides=$2 path=$3 pair side
    shift 3
    COMMANDS+=("$bench: \`load --url https://…/user_manager/$path $*\`")
    for pair in $(seq "$PAIRS"); do
        for side in $sides; do
            say "$bench $pair/$PAIRS: $side"
            checked "$bench" "$side" "$(load "$side" "$path" --duration "$SECONDS_PER_RUN" "$@" || true)"
        done
    done
}

# resident NAME: kilobytes of memory of all its processes, a page that n of them share counted as 1/n in each.
resident() {
    local pid sum=0
    for pid in $(pids "$1" | tr , ' '); do
        sum=$((sum + $(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup")))
    done
    echo "$sum"
}

has_line() { [[ -s $1 ]]; }

# idle_run SIDE: a process that has served nothing yet, before and with IDLE connections that each had one answer.
idle_run() {
    local before with report=$WORK/idle.report
    stop "$1"
    start "$1"
    before=$(resident "$1")
    rm -f "$report"
    "$WORK/load" --json --url "https://127.0.0.1:${PORT[$1]}/user_manager/ping" --idle --connections "$IDLE" \
        --duration 70 >"$report" &
    PID[holder]=$!
    wait_until 120 has_line "$report" || die "idle: the connections are not open after 120 s"
    sleep 1 # what was needed for the handshakes only may go
    with=$(resident "$1")
    stop holder
    [[ $(jq .failed "$report") == 0 ]] || fail "idle, $1: $(head -n 1 "$report")"
    jq -c --argjson before "$before" --argjson with "$with" '{open, before: $before, with: $with}' "$report" >>"$WORK/idle.$1"
}

idle() {
    local pair side
    COMMANDS+=("idle: \`load --url https://…/user_manager/ping --idle --connections $IDLE\`; Pss of all processes")
    ((IDLE + 1000 < $(ulimit -n))) || die "idle needs more open files than $(ulimit -n); raise the limit (ulimit -Hn) or set IDLE"
    for pair in $(seq "$PAIRS"); do
        for side in gateway tuned; do
            say "idle $pair/$PAIRS: $side"
            idle_run "$side"
        done
    done
}

# 40 % of the slower side's requests a second at saturation.
moderate_rate() {
    local side
    if [[ ! -e $WORK/cpu.tuned ]]; then
        say "rate: looking for the sides' maximum"
        for side in gateway tuned; do load "$side" ping --duration 3 --connections "$CONNECTIONS" >>"$WORK/cpu.$side"; done
    fi
    jq -n --argjson a "$(median cpu gateway .per_second)" --argjson b "$(median cpu tuned .per_second)" '[$a, $b] | min * 0.4 | floor'
}

# ---- the report

# median BENCH SIDE EXPRESSION (jq, of one run)
median() { jq -s "map($3) | sort | .[length / 2 | floor]" "$WORK/$1.$2"; }

# row BENCH "GATEWAY OTHER" WHAT EXPRESSION [<=|>= LIMIT]: the ratio of the medians, and the least and greatest of a pair.
row() {
    local bench=$1 ours=${2% *} other=${2#* } what=$3 expression=$4 relation=${5:-} limit=${6:-} verdict=""
    local a b ratio range
    a=$(median "$bench" "$ours" "$expression") b=$(median "$bench" "$other" "$expression")
    ratio=$(jq -n "$a / $b")
    range=$(jq -rn --slurpfile a "$WORK/$bench.$ours" --slurpfile b "$WORK/$bench.$other" \
        "def f: $expression; [\$a, \$b] | transpose | map((.[0] | f) / (.[1] | f)) | \"\\(min) \\(max)\"")
    if [[ -n $relation ]]; then
        verdict="${relation/=/} $limit: met"
        if [[ $(jq -n "$ratio $relation $limit") == false ]]; then verdict="${verdict/met/**missed**}" MISSED=1; fi
        verdict=${verdict/</≤} verdict=${verdict/>/≥}
    fi
    # shellcheck disable=SC2086 # two numbers
    ROWS+=("| $what | $(figure "$a") | $(figure "$b") | $(printf '%.2f' "$ratio") | $(printf '%.2f to %.2f' $range) | $verdict |")
}

# figure NUMBER: three digits, or all of an integer.
figure() { awk -v n="$1" 'BEGIN { printf (n >= 100 ? "%.0f" : n >= 10 ? "%.1f" : "%.2f"), n }'; }

latencies() { # BENCH "GATEWAY OTHER" WHAT
    row "$1" "$2" "p50 $3, ms" ".p50_us / 1000"
    # shellcheck disable=SC2086 # a relation and a limit
    row "$1" "$2" "p99 $3, ms" ".p99_us / 1000" ${4:-}
    row "$1" "$2" "p99.9 $3, ms" ".p999_us / 1000"
}

# head_of SIDE: the answer's header, and what the upstream got, without what differs between two answers of one server.
head_of() {
    local url=https://127.0.0.1:${PORT[$1]}/user_manager
    curl -sk --http1.1 -D - -o /dev/null "$url/ping" | tr -d '\r' | grep : | sed -E 's/^([^:]*):/\L\1:/' |
        grep -vE '^(date|server|connection):' | sed -E 's/^(x-request-id: ).*/\1…/' | sort
    echo "upstream:"
    curl -sk --http1.1 "$url/echo" | sed -e "s/:${PORT[$1]}/:PORT/" -E -e 's/^(x-request-id: ).+/\1…/'
}

# The comparison is fair only when both do the same.
compare_sides() {
    local difference
    difference=$(diff <(head_of gateway) <(head_of tuned) | grep '^[<>]' || true)
    [[ -z $difference ]] || note "headers differ (< gateway, > tuned nginx): $(tr '\n' ';' <<<"$difference")"
}

compare_tls() {
    local files=("$WORK"/*.gateway "$WORK"/*.gateway_logging "$WORK"/*.tuned "$WORK"/*.assignment)
    note "TLS of all runs, full handshakes only: $(cat "${files[@]}" 2>/dev/null | jq -r '.tls // empty' | sort -u | paste -sd ';')"
}

versions() {
    echo "- machine: $(nproc) × $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r); client and upstream run on it, too"
    echo "- gateway: $("$WORK/gateway" --version), $ORIGIN; $("$NGINX" -v 2>&1)"
    echo "- $PAIRS runs of each side in turn, $SECONDS_PER_RUN s each; load average $LOAD_BEFORE before, $(cut -d ' ' -f 1 /proc/loadavg) after"
    [[ -z ${GATEWAY_FLAGS:-} ]] || echo "- further flags of the gateway: \`$GATEWAY_FLAGS\`"
}

report() {
    echo "| what | gateway | nginx | ratio | of pairs | target |"
    echo "|---|---:|---:|---:|---|---|"
    printf '%s\n' "${ROWS[@]}"
    echo
    versions
    printf -- '- %s\n' "${NOTES[@]}" "${COMMANDS[@]}"
}

# ---- what is measured

run_cpu() {
    pairs cpu "gateway tuned" ping --connections "$CONNECTIONS"
    row cpu "gateway tuned" "CPU a request, µs" ".cpu_us / .requests" "<=" 1
    row cpu "gateway tuned" "requests a second, saturated" .per_second
    latencies cpu "gateway tuned" saturated
}

run_rate() {
    RATE=${RATE:-$(moderate_rate)}
    pairs rate "gateway tuned" ping --connections "$CONNECTIONS" --rate "$RATE"
    row rate "gateway tuned" "CPU a request at $RATE/s, µs" ".cpu_us / .requests"
    latencies rate "gateway tuned" "at $RATE/s" "<= 1"
}

run_handshakes() {
    pairs handshakes "gateway tuned" ping --handshakes --connections 16
    row handshakes "gateway tuned" "full TLS handshakes a CPU second" ".requests / .cpu_us * 1e6" ">=" 1.3
}

run_connections() {
    pairs connections "gateway tuned" ping --new-connection-per-request --connections 16
    row connections "gateway tuned" "CPU a connection with one request, µs" ".cpu_us / .requests"
}

run_h2() {
    pairs h2 "gateway tuned" ping --http2 --connections 8 --streams 8
    row h2 "gateway tuned" "HTTP/2: CPU a request, µs" ".cpu_us / .requests"
    row h2 "gateway tuned" "HTTP/2: requests a second" .per_second
}

run_mib() {
    pairs mib "gateway tuned" mib --connections 8
    row mib "gateway tuned" "1 MiB answers: CPU ms a GiB" ".cpu_us / 1000 / (.bytes / 1073741824)"
    row mib "gateway tuned" "1 MiB answers: MiB a second" ".bytes / 1048576 / .seconds"
}

run_idle() {
    idle
    row idle "gateway tuned" "memory with $IDLE idle connections, MB" ".with / 1024"
    row idle "gateway tuned" "memory an idle connection, KiB" "(.with - .before) / .open"
}

# Both as they come, with their access logs; and, for what the log costs, the gateway without.
run_assignment() {
    start assignment
    start gateway_logging
    pairs assignment "gateway_logging assignment gateway" ping --connections "$CONNECTIONS"
    row assignment "gateway_logging assignment" "the assignment's nginx: requests a second" .per_second ">=" 2.5
    row assignment "gateway assignment" "… without the gateway's access log" .per_second
    row assignment "gateway_logging assignment" "the assignment's nginx: CPU a request, µs" ".cpu_us / .requests"
    stop assignment
    stop gateway_logging
}

[[ $(uname -s) == Linux ]] || die "this benchmark reads /proc; it needs Linux"
for bench in $ONLY; do
    declare -F "run_$bench" >/dev/null || die "ONLY: there is no $bench"
done
need jq jq
need curl curl
need pgrep procps
need "$NGINX" nginx
take_binaries
LOAD_BEFORE=$(cut -d ' ' -f 1 /proc/loadavg)
prepare
start upstream
start gateway
start tuned
compare_sides
for bench in $ONLY; do "run_$bench"; done
compare_tls
report
exit "$MISSED"

#!/usr/bin/env bash
# Where the gateway's time goes under load: the hottest functions by self time, and the system calls of a request.
# usage: bench/gateway/profile.sh         (Linux; needs perf, and strace for the second part)
#   SECONDS_PER_RUN=5  CONNECTIONS=64  TOP=40
#   LOAD_FLAGS=               of bench's load, such as "--http2" or "--rate 2000"
#   REQUEST=ping              or mib
#   PROFILE=tuned             nginx instead, to compare
#   KEEP=FILE                 keeps perf's data
#   GATEWAY_FLAGS=, GATEWAY=, LOAD=, NGINX=   as of bench/gateway.sh; by default a release build with line tables, in
#                             target/profile
set -euo pipefail
cd "$(dirname "$0")/../.."
source tools/lib.sh
source bench/gateway/lib.sh

SECONDS_PER_RUN=${SECONDS_PER_RUN:-5}
CONNECTIONS=${CONNECTIONS:-64}
TOP=${TOP:-40}
REQUEST=${REQUEST:-ping}
PROFILE=${PROFILE:-gateway}
WORK=$(mktemp -d)
trap 'stop_all; rm -rf "$WORK"' EXIT

# The release profile strips symbols, and a build with other settings would throw the usual release build away.
build_with_symbols() {
    [[ -z ${GATEWAY:-} ]] || return 0
    CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_STRIP=none RUSTFLAGS="-C force-frame-pointers=yes" \
        cargo build --release --quiet -p gateway --target-dir "$(target_dir)/profile"
    GATEWAY=$(target_dir)/profile/release/gateway
}

# under_load SECONDS COMMAND...: while requests come in; their number in REQUESTS.
under_load() {
    local loader seconds=$1
    shift
    # shellcheck disable=SC2086 # flags, without spaces
    load "$PROFILE" "$REQUEST" --connections "$CONNECTIONS" --duration "$seconds" ${LOAD_FLAGS:-} >"$WORK/report" &
    loader=$!
    "$@"
    wait "$loader" || true
    REQUESTS=$(jq .requests "$WORK/report")
}

# table COLUMNS: perf's report, without its comments and empty columns.
table() {
    perf report -i "$WORK/perf.data" --no-children -g none --sort "$1" 2>/dev/null | sed -E '/^(#.*)?$/d; s/( +-)* *$//'
}

functions() {
    under_load $((SECONDS_PER_RUN + 1)) perf record -q -g -F 999 -p "$(pids "$PROFILE")" -o "$WORK/perf.data" \
        -- sleep "$SECONDS_PER_RUN" >/dev/null 2>"$WORK/perf.log" || die "perf: $(tail -n 3 "$WORK/perf.log")"
    echo "## $PROFILE: self time of $SECONDS_PER_RUN s, $(jq '.cpu_us / .requests * 10 | round / 10' "$WORK/report") µs a request"
    table symbol,dso | awk -v top="$TOP" 'NR <= top'
    echo "## by object"
    table dso | awk 'NR <= 6'
    [[ -z ${KEEP:-} ]] || cp "$WORK/perf.data" "$KEEP"
}

# strace slows everything down, so its seconds say nothing; its counts do. It is attached for the whole load.
system_calls() {
    # -f follows the threads; a process whose child is given anyway must not be named twice.
    local arguments=() pid tracer
    for pid in $(pids "$PROFILE" | tr , ' '); do arguments+=(-p "$pid"); done
    strace -qq -c -f -o "$WORK/strace" "${arguments[@]}" &
    tracer=$!
    sleep 1
    under_load 3 true
    kill -INT "$tracer"
    wait "$tracer" || true
    echo "## system calls a request ($REQUESTS requests under strace, opening of connections included)"
    awk -v n="$REQUESTS" '$1 ~ /^[0-9.]+$/ && $NF != "total" && $4 / n >= 0.005 {
        printf "%8.2f %s%s\n", $4 / n, $NF, (NF == 6 ? sprintf("   (%.2f failed)", $5 / n) : "") }' "$WORK/strace" | sort -rn
}

need jq jq
need perf linux-perf
[[ $PROFILE == gateway ]] || need "$NGINX" nginx
build_with_symbols
take_binaries
prepare
start upstream
start "$PROFILE"
functions
if have strace; then system_calls; else say "no strace: system calls are not counted"; fi

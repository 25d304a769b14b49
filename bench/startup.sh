#!/usr/bin/env bash
# How long a release build of the standalone takes to serve and to mail, and how much memory it holds: medians of N
# starts. Exit code 1 when one of them is beyond its limit.
# usage: bench/startup.sh [N=5]        (Linux: memory is read from /proc)
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh
source tools/client.sh

RUNS=${1:-5}
WORK=$(mktemp -d)
PID=
trap cleanup EXIT

cleanup() {
    [[ -z $PID ]] || end "$PID" KILL 5
    rm -rf "$WORK"
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }
rss_kb() { awk '/^VmRSS/ { print $2 }' "/proc/$PID/status"; }
has_mail() { grep -qs '^Subject:.*KJFK' "$1"/mail/*.eml; }

# poll COMMAND...: like wait_until, with a finer step: these waits are what is measured.
poll() {
    local end=$((SECONDS + 60))
    until "$@"; do
        if gone "$PID" || ((SECONDS >= end)); then die "waited in vain for: $*
$(tail -n 5 "$WORK/log")"; fi
        sleep 0.005
    done
}

# one_run NUMBER: appends "serves_ms ready_ms mail_ms rss_ready_kb rss_collected_kb" to the results.
one_run() {
    local data=$WORK/$1 began serves ready mail rss token status=0
    began=$(now_ms)
    start_standalone "$data" "$(free_port)" "$WORK/log"
    poll serves
    serves=$(($(now_ms) - began))
    poll ready
    ready=$(($(now_ms) - began))
    rss=$(rss_kb)
    register bench@example.com
    token=$(login bench@example.com)
    began=$(now_ms)
    api PUT /data_collector/interests/KJFK "$token" '{"high_value":200}' >/dev/null
    poll has_mail "$data"
    mail=$(($(now_ms) - began))
    echo "$serves $ready $mail $rss $(rss_kb)" >>"$WORK/results"
    kill -TERM "$PID"
    wait "$PID" || status=$?
    PID=
    ((status == 0)) || die "exit code $status after SIGTERM"
}

# median COLUMN
median() { cut -d ' ' -f "$1" "$WORK/results" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# row WHAT MEDIAN UNIT [LIMIT]
row() {
    local verdict=""
    if [[ -n ${4:-} ]]; then verdict="(at most $4)"; fi
    if (($2 > ${4:-$2})); then verdict="MISSED $verdict" MISSED=1; fi
    printf '  %-58s %6d %s  %s\n' "$1" "$2" "$3" "$verdict"
}

report() {
    echo "machine: $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "commit:  $(git rev-parse --short HEAD 2>/dev/null || echo none)$(git diff --quiet HEAD 2>/dev/null || echo ', with changes')"
    echo "medians of $RUNS starts, each on a new data directory:"
    row "first answer through the gateway" "$(median 1)" ms
    row "ready on all five admin ports" "$(median 2)" ms 1000
    row "subscribe -> mail, from the PUT to the mail in the folder" "$(median 3)" ms 10000
    row "resident when ready" $(($(median 4) / 1024)) MB 100
    row "resident after one user's KJFK was collected and mailed" $(($(median 5) / 1024)) MB 100
}

MISSED=0
build_standalone
for run in $(seq "$RUNS"); do one_run "$run"; done
report
exit "$MISSED"

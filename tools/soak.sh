#!/usr/bin/env bash
# Kills the standalone (kill -9) at random moments of a first collection, starts it again on the same data directory,
# and compares with a run that nobody disturbed: the same mails (a second copy only with the same Message-ID) and the
# same daily counts. ROUNDS (20), KILLS a round (4) and SECONDS_LIMIT (1800) bound it.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh
source tools/client.sh

ROUNDS=${ROUNDS:-20}
KILLS=${KILLS:-4}
SECONDS_LIMIT=${SECONDS_LIMIT:-1800}
AIRPORTS=(KJFK KORD KATL KDFW KLAX)
USERS=(ada@example.com grace@example.com edsger@example.com)
MAILS=$((${#AIRPORTS[@]} * ${#USERS[@]})) # a threshold of 1, so each interest gets one for its latest window
WORK=$(mktemp -d)
PID=
trap cleanup EXIT

cleanup() {
    local status=$?
    [[ -z $PID ]] || end "$PID" KILL 5
    if ((status == 0)); then rm -rf "$WORK"; else say "what it left: $WORK"; fi
}

# up DATA_DIR
up() {
    start_standalone "$1" "$(free_port)" "$1.log"
    if ! wait_until 60 up_or_dead || gone "$PID"; then
        die "it did not start: $(tail -n 5 "$1.log")"
    fi
}

kill_now() {
    kill -KILL "$PID"
    wait "$PID" 2>/dev/null || true
    PID=
}

# subscribe: registers everybody and asks for every airport; may be repeated.
subscribe() {
    local user airport token
    for user in "${USERS[@]}"; do
        # One who is registered already is refused (409); the login tells whether it was that.
        register "$user" || true
        token=$(login "$user") && [[ -n $token ]] || return 1
        for airport in "${AIRPORTS[@]}"; do
            api PUT "/data_collector/interests/$airport" "$token" '{"high_value":1}' >/dev/null || return 1
        done
    done
}

# mails DATA_DIR FIELD...: those header fields of each mail, unfolded, on one line.
mails() {
    local file dir=$1 field
    shift
    for file in "$dir"/mail/*.eml; do
        [[ -e $file ]] || continue
        for field in "$@"; do
            awk -v want="$field:" '/^\r?$/ { exit } /^[ \t]/ { if (on) value = value $0; next }
                { on = index($0, want) == 1 } on { value = $0 } END { gsub(/\r/, "", value); printf "%s\t", value }' "$file"
        done
        echo
    done | sort -u
}

all_mailed() { (($(mails "$1" To Subject | wc -l) >= MAILS)); }

daily() { api GET '/data_collector/airports/KJFK/daily?days=7' "$(login "${USERS[0]}")"; }

# settle DATA_DIR: waits for the mails and the whole backfill, then writes DATA_DIR.{mails,daily}.
settle() {
    wait_until 120 all_mailed "$1" || die "only $(mails "$1" To Subject | wc -l) of $MAILS mails came"
    wait_until 60 backfilled || die "the backfill of KJFK did not end: $(daily)"
    sleep 2 # time for a mail too many
    mails "$1" To Subject >"$1.mails"
    daily >"$1.daily"
    kill -TERM "$PID"
    wait "$PID" || die "exit code $? after SIGTERM"
    PID=
}

backfilled() { (($(daily | grep -o '"day"' | wc -l) >= 7)); }

# compare DATA_DIR ROUND
compare() {
    diff "$WORK/undisturbed.mails" "$1.mails" >&2 || die "round $2: other mails than in the undisturbed run"
    diff "$WORK/undisturbed.daily" "$1.daily" >&2 || die "round $2: other daily counts than in the undisturbed run"
    [[ $(mails "$1" To Subject Message-ID | wc -l) == "$MAILS" ]] || die "round $2: a copy with another Message-ID"
}

# one_round NUMBER
one_round() {
    local data=$WORK/round-$1 _
    for _ in $(seq "$KILLS"); do
        up "$data"
        subscribe & # in the background: the kill may come in the middle of it
        local client=$!
        sleep "$((RANDOM % 2)).$((RANDOM % 900 + 100))"
        kill_now
        wait "$client" || true
    done
    up "$data"
    subscribe || die "round $1: could not subscribe"
    settle "$data"
    compare "$data" "$1"
    say "round $1: $(find "$data/mail" -name '*.eml' | wc -l) mails for $MAILS alerts, counts equal"
    rm -rf "$data" "$data".*
}

build_standalone
up "$WORK/undisturbed"
subscribe || die "could not subscribe"
settle "$WORK/undisturbed"
for round in $(seq "$ROUNDS"); do
    ((SECONDS < SECONDS_LIMIT)) || die "only $((round - 1)) of $ROUNDS rounds in $SECONDS_LIMIT s"
    one_round "$round"
done
echo "$ROUNDS rounds, $((ROUNDS * KILLS)) kills: no alert lost, no count changed ($SECONDS s)"

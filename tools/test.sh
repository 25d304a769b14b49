#!/usr/bin/env bash
# Every check and every test, as CI runs them. STRICT=1: what had to be skipped counts as a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

LOG=$PWD/target/test.log
# A passing test's output is not shown, so a suite that cannot run says so in this file: `SKIPPED <suite>: <reason>`.
export SKIP_LOG=$PWD/target/skipped.log
FAILED_STEPS=()

# step TITLE COMMAND...: a failure is kept for the end, so that one run shows all of them.
step() {
    local title=$1 began=$SECONDS result=ok
    shift
    printf '\n== %s\n' "$title"
    "$@" || { result=FAILED && FAILED_STEPS+=("$title"); }
    printf -- '-- %s: %s, %d s\n' "$title" "$result" $((SECONDS - began))
    [[ $result == ok ]]
}

skip() { echo "SKIPPED $*" >>"$SKIP_LOG"; }

# Licences, bans and sources depend on the commit alone. New advisories do not: `make audit` looks for those, so
# that one published overnight does not fail an unchanged tree.
deny() {
    local cargo_deny
    if ! cargo_deny=$(tools/cargo-deny.sh); then
        skip "cargo deny: cargo-deny is not installed (cargo install cargo-deny --locked)"
        return
    fi
    "$cargo_deny" --workspace --all-features --locked check --hide-inclusion-graph bans licenses sources
}

# Each service that was not there before; those that someone started by hand stay.
stop_services() {
    trap - EXIT
    # shellcheck disable=SC2086 # names, without spaces
    tools/services.sh stop $STARTED
}

start_services() {
    STARTED=$(tools/services.sh status | sed -n 's/: not running$//p')
    [[ -z $STARTED ]] || trap stop_services EXIT
    eval "$(tools/services.sh start)"
}

# The README's sessions are run as they stand there, with curl.
curl_for_readme() {
    have curl || { can_apt && apt_install curl; } || skip "e2e readme: curl is not installed"
}

# The gateway's routing is compared with a real nginx's; Debian keeps it where only root looks for programs.
nginx_for_gateway() {
    has_nginx || { can_apt && apt_install nginx; } || skip "gateway nginx: nginx is not installed"
}

has_nginx() { have nginx || [[ -x /usr/sbin/nginx || -x /usr/local/sbin/nginx ]]; }

# Every route by the collections that people import, against the standalone that was just built.
postman() {
    { have node && have npm; } || { can_apt && apt_install nodejs npm; } || { skip "postman: npm is not installed"; return; }
    tools/postman.sh
}

tests() {
    local left_out=()
    # In the same order each time; `make soak` draws others.
    export CHAOS_SEED=${CHAOS_SEED:-7}
    have curl || left_out+=(--skip _session_)
    has_nginx || left_out+=(--skip a_real_nginx)
    ((${#left_out[@]} == 0)) || left_out=(-- "${left_out[@]}")
    bounded 40m cargo test --workspace --all-features --no-fail-fast ${left_out[@]+"${left_out[@]}"} 2>&1 | tee "$LOG"
}

# An ignored test is a skipped one.
note_ignored_tests() {
    sed -n 's/^test \(.*\) \.\.\. ignored\(, \)\{0,1\}\(.*\)/SKIPPED test \1: ignored, \3/p' "$LOG" | sed 's/, $//' >>"$SKIP_LOG"
}

# sum WORD: over the lines `test result: ok. 5 passed; 0 failed; …` of all test programs.
sum() { sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$LOG" | awk '{ n += $1 } END { print n + 0 }'; }

# Failed tests, and each other failed step as one. A test program that crashed has no result line: one failure too.
failures() {
    local count
    count=$(sum failed)
    [[ " ${FAILED_STEPS[*]-} " != *" tests "* ]] || ((count == 0)) || count=$((count - 1))
    echo $((count + ${#FAILED_STEPS[@]}))
}

report() {
    local passed failed skipped
    note_ignored_tests
    printf '\n== Skipped suites\n'
    if [[ -s $SKIP_LOG ]]; then sort -u "$SKIP_LOG"; else echo "nothing was skipped"; fi
    skipped=$(sort -u "$SKIP_LOG" | wc -l | tr -d ' ')
    passed=$(sum passed)
    failed=$(failures)
    printf '\n%d min %d s\n' $((SECONDS / 60)) $((SECONDS % 60))
    ((${#FAILED_STEPS[@]} == 0)) || printf 'failed: %s\n' "${FAILED_STEPS[@]}"
    if ((skipped > 0)) && [[ ${STRICT:-} == 1 ]]; then echo "failed: STRICT=1 allows no skipped suite"; fi
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    ((failed == 0)) && { ((skipped == 0)) || [[ ${STRICT:-} != 1 ]]; }
}

for tool in fmt clippy; do
    cargo "$tool" --version >/dev/null 2>&1 || die "cargo $tool is missing; install it with
  rustup component add rustfmt clippy"
done
mkdir -p target
: >"$LOG"
: >"$SKIP_LOG"
step "format" cargo fmt --all --check || true
step "clippy" cargo clippy --workspace --all-targets --all-features -- -D warnings || true
step "licences, bans and sources of dependencies" deny || true
step "PostgreSQL and Kafka for the tests" start_services || true
step "curl for the README's sessions" curl_for_readme || true
step "nginx for the gateway's tests" nginx_for_gateway || true
# All targets at once: the binaries that e2e starts are then built with the features that the tests have, and
# nothing is compiled twice.
if step "build" cargo build --workspace --all-targets --all-features; then
    step "tests" tests || true
    step "Postman collections by newman" postman || true
fi
[[ -z $(trap -p EXIT) ]] || stop_services
report

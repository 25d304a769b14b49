#!/usr/bin/env bash
# How fast a counted window becomes mails, over Kafka and over the embedded log: interests judged a second, mails a second
# into an SMTP server of this machine, and the time from a commit to that server's 250; with memory, and each beside a
# straightforward Python program for the same work. Exit code 1 when a target is missed.
# usage: bench/pipeline.sh               (Linux, about half an hour)
#   ONLY="evaluations mails"  some of: evaluations mails latency
#   ROUNDS=3                  of evaluations and of mails, of which the median counts
#   TEST_DATABASE_URL=        a PostgreSQL server, on which databases called vedetta_bench… are made anew; by default the one
#                             of tools/services.sh, which is started, and stopped again, if it does not run
#   TEST_KAFKA=               likewise; a broker of this machine for tests: the topics of Vedetta on it are deleted
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh
source bench/lib.sh

PARTS=(evaluations mails latency)
SERVICES=(user_manager data_collector alert_system notifier_system opensky_replay)

# make_venv: a Python with what the programs beside us need.
make_venv() {
    VENV=target/bench-venv
    if cmp -s bench/pipeline/requirements.txt "$VENV/requirements.txt"; then return; fi
    python3 -m venv "$VENV" 2>/dev/null || { can_apt && apt_install python3-venv && python3 -m venv "$VENV"; } \
        || die "python3 with venv is missing (for the programs of bench/pipeline)"
    # Wheels, which bring librdkafka along: nothing is compiled.
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r bench/pipeline/requirements.txt
    cp bench/pipeline/requirements.txt "$VENV/"
}

for name in $ONLY; do
    [[ " ${PARTS[*]} " == *" $name "* ]] || die "ONLY: there is no $name"
done
ONLY_PARTS=$(some_of "${PARTS[@]}")
make_venv
cargo build --release --features kafka -p bench "${SERVICES[@]/#/-p}" --bin pipeline "${SERVICES[@]/#/--bin=}"
[[ -n ${TEST_DATABASE_URL:-} && -n ${TEST_KAFKA:-} ]] || services
[[ -n ${TEST_DATABASE_URL:-} ]] || die "there is no PostgreSQL"
[[ -n ${TEST_KAFKA:-} ]] || die "there is no Kafka"
machine
echo "command: ${ONLY:+ONLY=\"$ONLY\" }bench/pipeline.sh, $("$VENV/bin/python" --version), $(<bench/pipeline/requirements.txt)"
"$TARGET/release/pipeline" --kafka "$TEST_KAFKA" --database "$TEST_DATABASE_URL" --folder "$WORK" \
    --programs "$TARGET/release" --python "$VENV/bin/python" --rounds "${ROUNDS:-3}" --only "${ONLY_PARTS// /,}" || MISSED=1
exit "$MISSED"
